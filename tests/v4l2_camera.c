/* A V4L2 camera for a process that has this preloaded (LD_PRELOAD): it answers what the kernel answers for /dev/video42.
 *
 * The pictures are YUYV of one grey, which is the picture's number modulo 200; a timer gives one every 20 ms. From the
 * environment: FAKE_PICTURES, after which the camera is silent, and FAKE_GONE_AFTER, after which it is unplugged.
 *
 * See https://docs.kernel.org/userspace-api/media/v4l/v4l2.html
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define PATH "/dev/video42"
#define MOST_BUFFERS 8

static int device = -1, width = 640, height = 480, count, streaming;
static int is_queued[MOST_BUFFERS], next_queued[MOST_BUFFERS], queued;
static void *memory[MOST_BUFFERS];
static long taken;

static long limit(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : -1;
}

static int is_gone(void) {
    long after = limit("FAKE_GONE_AFTER");
    return after >= 0 && taken >= after;
}

static size_t size(void) { return (size_t)width * height * 2; }

static int fail(int number) {
    errno = number;
    return -1;
}

static int opened(const char *path) {
    if (strcmp(path, PATH) || device >= 0)
        return -1;
    device = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return device;
}

static void every(long nanoseconds) {
    struct itimerspec spec = {{0, nanoseconds}, {0, nanoseconds}};
    timerfd_settime(device, 0, &spec, NULL);
}

static void set_format(struct v4l2_format *format) {
    struct v4l2_pix_format *pix = &format->fmt.pix;
    if (pix->width && pix->height) {
        width = pix->width > 320 ? 640 : 320;
        height = width * 3 / 4;
    }
    pix->width = width;
    pix->height = height;
    pix->pixelformat = V4L2_PIX_FMT_YUYV;
    pix->field = V4L2_FIELD_NONE;
    pix->bytesperline = width * 2;
    pix->sizeimage = size();
    pix->colorspace = V4L2_COLORSPACE_SRGB;
}

static int take(struct v4l2_buffer *buffer) {
    uint64_t ticks;
    struct timespec now;
    if (is_gone())
        return fail(ENODEV);
    if (!queued || read(device, &ticks, sizeof ticks) < 0)
        return fail(EAGAIN);
    int index = next_queued[0];
    memmove(next_queued, next_queued + 1, --queued * sizeof *next_queued);
    is_queued[index] = 0;
    memset(memory[index], 128, size());
    for (size_t i = 0; i < size(); i += 2)
        ((unsigned char *)memory[index])[i] = 30 + taken % 200;
    taken++;
    if (limit("FAKE_PICTURES") >= 0 && taken >= limit("FAKE_PICTURES"))
        every(0);
    if (is_gone())
        every(1); /* as poll() does for a device that is unplugged, it never waits again */
    clock_gettime(CLOCK_MONOTONIC, &now);
    now.tv_nsec -= 7000000; /* exposed 7 ms ago */
    if (now.tv_nsec < 0)
        now.tv_nsec += 1000000000, now.tv_sec--;
    buffer->index = index;
    buffer->bytesused = buffer->length = size();
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    buffer->timestamp.tv_sec = now.tv_sec;
    buffer->timestamp.tv_usec = now.tv_nsec / 1000;
    buffer->sequence = taken;
    return 0;
}

static int answer(unsigned long request, void *argument) {
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *capability = argument;
        memset(capability, 0, sizeof *capability);
        strcpy((char *)capability->driver, "fake");
        capability->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS;
        capability->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: {
        struct v4l2_format *format = argument;
        if (request == VIDIOC_S_FMT && format->fmt.pix.pixelformat != V4L2_PIX_FMT_YUYV)
            return fail(EINVAL);
        set_format(format);
        return 0;
    }
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
        struct v4l2_streamparm *parameter = argument;
        parameter->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
        parameter->parm.capture.timeperframe.numerator = 1;
        parameter->parm.capture.timeperframe.denominator = 50;
        return 0;
    }
    case VIDIOC_G_INPUT:
        *(int *)argument = 0;
        return 0;
    case VIDIOC_ENUMINPUT:
        return ((struct v4l2_input *)argument)->index ? fail(EINVAL) : 0;
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = argument;
        count = wanted->count = wanted->count > MOST_BUFFERS ? MOST_BUFFERS : wanted->count;
        queued = 0;
        memset(is_queued, 0, sizeof is_queued);
        return 0;
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = argument;
        buffer->length = size();
        buffer->m.offset = buffer->index * 0x1000000;
        return 0;
    }
    case VIDIOC_QBUF: {
        struct v4l2_buffer *buffer = argument;
        if (is_gone())
            return fail(ENODEV);
        if (buffer->index >= (unsigned)count || is_queued[buffer->index])
            return fail(EINVAL);
        is_queued[buffer->index] = 1;
        next_queued[queued++] = buffer->index;
        return 0;
    }
    case VIDIOC_DQBUF:
        return take(argument);
    case VIDIOC_STREAMON:
        streaming = 1;
        every(limit("FAKE_PICTURES") == 0 ? 0 : 20000000);
        return 0;
    case VIDIOC_STREAMOFF:
        streaming = 0;
        queued = 0;
        memset(is_queued, 0, sizeof is_queued);
        return 0;
    default:
        return fail(EINVAL);
    }
}

int open(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, int);
    va_end(rest);
    if (!real)
        real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    int found = opened(path);
    return found >= 0 ? found : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, int);
    va_end(rest);
    if (!real)
        real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    int found = opened(path);
    return found >= 0 ? found : real(path, flags, mode);
}

int close(int descriptor) {
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "close");
    if (descriptor >= 0 && descriptor == device)
        device = -1;
    return real(descriptor);
}

int ioctl(int descriptor, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (descriptor >= 0 && descriptor == device)
        return answer(request, argument);
    if (!real)
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return real(descriptor, request, argument);
}

static void *map(size_t length, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (!real)
        real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    void *found = real(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory[offset / 0x1000000] = found;
    return found;
}

void *mmap(void *address, size_t length, int protection, int flags, int descriptor, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (descriptor >= 0 && descriptor == device)
        return map(length, offset);
    if (!real)
        real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    return real(address, length, protection, flags, descriptor, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int descriptor, off_t offset) {
    return mmap(address, length, protection, flags, descriptor, offset);
}
