"""The demo: the whole loop on this machine, with an embedded broker and a page to look at.

stage   a folder, keys, configuration files, and the four processes
screen  what the person in front of the terminal sees
story   what happens, in order
"""

from edgeinfer.console.demo.story import run_demo

__all__ = ["run_demo"]
