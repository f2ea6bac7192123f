"""Synthetic vitals of a computer: windows of 16 readings of five channels, as `edgeinfer run` takes them live.

What is normal is drawn wide on purpose: any load, any level of memory and disk, bursts of traffic, with or
without a temperature sensor (0 where there is none), and a temperature that follows the load. An anomaly is
what a machine does not do by itself within some seconds: memory or disk jump, the temperature leaves its load
behind, a flood on the network, a reading that dies.
"""

import numpy as np
import numpy.typing as npt

CHANNELS = ("cpu_percent", "memory_percent", "disk_percent", "net_kib_s", "temperature_c")
CPU, MEMORY, DISK, NETWORK, TEMPERATURE = range(5)
LENGTH = 16
# Not the statistics of the data but the size of a remarkable change: half the scale for a load, which jumps
# all the time, 5 points of memory or disk, which never do.
MEAN = (50.0, 50.0, 50.0, 0.0, 40.0)
STD = (50.0, 5.0, 5.0, 60000.0, 10.0)

Window = npt.NDArray[np.float32]


def normal(random: np.random.Generator) -> Window:
    """One window (16, 5) of a machine that is well."""
    window = np.empty((LENGTH, len(CHANNELS)), np.float64)
    window[:, CPU] = load(random)
    window[:, MEMORY] = drifting(random, low=2.0, high=97.0, step=random.uniform(0.0, 0.6))
    window[:, DISK] = drifting(random, low=0.5, high=99.5, step=random.uniform(0.0, 0.05))
    window[:, NETWORK] = traffic(random)
    window[:, TEMPERATURE] = temperature(random, window[:, CPU])
    return clipped(window)


def anomalous(random: np.random.Generator) -> Window:
    """A normal window with one thing gone wrong from some reading on."""
    window = normal(random).astype(np.float64)
    after = slice(int(random.integers(4, LENGTH - 3)), None)
    match int(random.integers(5)):
        case 0:
            window[after, MEMORY] += step_within(random, float(window[0, MEMORY]))
        case 1:
            window[after, DISK] += step_within(random, float(window[0, DISK]))
        case 2:
            window[:, TEMPERATURE] = np.maximum(window[:, TEMPERATURE], 35.0)
            window[after, TEMPERATURE] += random.uniform(15.0, 60.0)
        case 3:
            window[after, NETWORK] += random.uniform(2e5, 1.2e6)
        case _:
            window[after, random.choice([MEMORY, DISK])] = 0.0 if window[0, MEMORY] > 25.0 else 100.0
    return clipped(window)


def load(random: np.random.Generator) -> npt.NDArray[np.float64]:
    """CPU load: a level, noise around it, and now and then a burst."""
    level = random.choice([random.uniform(0.0, 15.0), random.uniform(0.0, 100.0), random.uniform(85.0, 100.0)])
    series = level + random.normal(0.0, random.uniform(0.5, 15.0), LENGTH)
    if random.random() < 0.5:
        start = int(random.integers(0, LENGTH))
        series[start : start + int(random.integers(1, 8))] = random.uniform(0.0, 100.0)
    return np.clip(series, 0.0, 100.0)


def drifting(random: np.random.Generator, *, low: float, high: float, step: float) -> npt.NDArray[np.float64]:
    """A level anywhere that moves a little: a slope and a random walk."""
    slope = random.normal(0.0, step) * np.arange(LENGTH)
    return np.clip(random.uniform(low, high) + slope + np.cumsum(random.normal(0.0, step, LENGTH)), 0.0, 100.0)


def traffic(random: np.random.Generator) -> npt.NDArray[np.float64]:
    """KiB a second over five orders of magnitude, up to a full gigabit link."""
    base = 10.0 ** random.uniform(-1.0, 4.0)
    series = base * np.exp(random.normal(0.0, 0.7, LENGTH))
    if random.random() < 0.2:
        start = int(random.integers(0, LENGTH))
        series[start : start + int(random.integers(1, 10))] = random.uniform(1e3, 1.2e5)
    return np.clip(series, 0.0, 1.25e5)


def temperature(random: np.random.Generator, cpu: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Follows the load within some readings; 0 throughout where there is no sensor."""
    if random.random() < 0.4:
        return np.zeros(LENGTH)
    rest, rise, pace = random.uniform(20.0, 55.0), random.uniform(0.05, 0.35), random.uniform(0.2, 0.9)
    warm = np.empty(LENGTH)
    state = cpu[0]
    for index, value in enumerate(cpu):
        state += pace * (value - state)
        warm[index] = state
    return rest + rise * warm + random.normal(0.0, random.uniform(0.0, 1.0), LENGTH)


def step_within(random: np.random.Generator, level: float) -> float:
    """A jump of 8 to 60 points that stays within 0 to 100."""
    size = random.uniform(8.0, 60.0)
    room_up = 100.0 - level
    return min(size, room_up) if room_up > 40.0 else -min(size, level)


def clipped(window: npt.NDArray[np.float64]) -> Window:
    window[:, [CPU, MEMORY, DISK]] = np.clip(window[:, [CPU, MEMORY, DISK]], 0.0, 100.0)
    return window.astype(np.float32)


def scaled(windows: Window) -> Window:
    """Windows (N, 16, 5) as the package's preprocessing hands them to the model."""
    return ((windows - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
