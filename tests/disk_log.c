/* Loaded into a process by LD_PRELOAD: logs all that it does to files below a folder, in the order in which it is done,
 * so that `power_cuts.py` can tell what any power cut might leave of them.
 *
 * DISK_LOG        the log; several processes may share it
 * DISK_LOG_ROOT   the folder that is watched, absolute
 * DISK_LOG_FAIL   every so many fsync and fdatasync fail with EIO; 0 or nothing: none
 *
 * Nothing is really synced: the medium is the log. What is written through mmap is not seen (SQLite's -shm, which is
 * made anew after a power cut).
 *
 * A record, little-endian: u32 length of all, u8 operation, u64 inode, u64 offset, u16 length of path, path, data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, CREATE, WRITE, TRUNCATE, SYNC, SYNC_FAILED, SYNC_FOLDER, UNLINK, RENAME, MKDIR, RMDIR, LINK };
enum { MAX_FILES = 65536, MAX_PATH = 4096 };

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int log_file = -1;
static char root[MAX_PATH];
static size_t root_length;
static unsigned fail_every, syncs;
static uint64_t inode_of[MAX_FILES]; /* of a watched file or folder, by descriptor; 0: not watched */
static char *folder_of[MAX_FILES];   /* the path, for a folder */

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void forget_files(void) { /* in a child: its lock is its own, its descriptors are the parent's */
    pthread_mutex_t fresh = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    mutex = fresh;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DISK_LOG"), *folder = getenv("DISK_LOG_ROOT"), *fail = getenv("DISK_LOG_FAIL");
    if (!path || !folder || !*folder) return;
    root_length = (size_t)snprintf(root, sizeof root, "%s/", folder);
    fail_every = fail ? (unsigned)atoi(fail) : 0;
    log_file = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_file < 0) abort();
    int high = fcntl(log_file, F_DUPFD_CLOEXEC, 900); /* out of the way of those who count on low numbers */
    if (high >= 0) {
        REAL(close)(log_file);
        log_file = high;
    }
    pthread_atfork(NULL, NULL, forget_files);
}

static void enter(void) {
    pthread_mutex_lock(&mutex);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    while (log_file >= 0 && fcntl(log_file, F_SETLKW, &lock) != 0 && errno == EINTR) {
    }
}

static void leave(void) {
    int kept = errno;
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    if (log_file >= 0) fcntl(log_file, F_SETLK, &lock);
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static int watched(const char *path) {
    return log_file >= 0 && path && strncmp(path, root, root_length) == 0;
}

static void note(int operation, uint64_t inode, uint64_t offset, const char *path, const void *data, size_t size) {
    unsigned char head[23];
    int kept = errno;
    uint16_t path_length = (uint16_t)(path ? strlen(path) : 0);
    uint32_t length = (uint32_t)(sizeof head + path_length + size);
    memcpy(head, &length, 4);
    head[4] = (unsigned char)operation;
    memcpy(head + 5, &inode, 8);
    memcpy(head + 13, &offset, 8);
    memcpy(head + 21, &path_length, 2);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, path_length}, {(void *)data, size}};
    if (REAL(writev)(log_file, parts, 3) != (ssize_t)length) abort();
    errno = kept;
}

static uint64_t inode_at(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0 ? (uint64_t)found.st_ino : 0;
}

static void opened(int file, const char *path, int flags, int existed) {
    struct stat found;
    if (file < 0 || file >= MAX_FILES || fstat(file, &found) != 0) return;
    if (S_ISDIR(found.st_mode)) {
        free(folder_of[file]);
        folder_of[file] = strdup(path);
        inode_of[file] = 0;
    } else if (S_ISREG(found.st_mode) && (flags & __O_TMPFILE) != __O_TMPFILE) {
        inode_of[file] = (uint64_t)found.st_ino;
        note(existed ? OPEN : CREATE, inode_of[file], 0, path, NULL, 0);
        if (existed && (flags & O_TRUNC)) note(TRUNCATE, inode_of[file], 0, NULL, NULL, 0);
    }
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    char whole[MAX_PATH];
    if (log_file >= 0 && path && path[0] != '/') { /* relative: what the kernel takes it for */
        char link[64], base[MAX_PATH];
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, base, sizeof base - 1);
        if (size > 0) {
            base[size] = 0;
            if ((size_t)snprintf(whole, sizeof whole, "%s/%s", base, path) < sizeof whole) path = whole;
        }
    }
    if (!watched(path) && !(log_file >= 0 && path && strncmp(path, root, root_length - 1) == 0))
        return REAL(openat)(folder, path, flags, mode);
    enter();
    int existed = inode_at(path) != 0;
    int file = REAL(openat)(folder, path, flags, mode);
    opened(file, path, flags, existed);
    leave();
    return file;
}

#define OPEN_WITH(folder)                                             \
    mode_t mode = 0;                                                  \
    if (flags & (O_CREAT | __O_TMPFILE)) {                            \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        mode = va_arg(rest, mode_t);                                  \
        va_end(rest);                                                 \
    }                                                                 \
    return open_at(folder, path, flags, mode);

int open(const char *path, int flags, ...) { OPEN_WITH(AT_FDCWD) }
int open64(const char *path, int flags, ...) { OPEN_WITH(AT_FDCWD) }
int openat(int folder, const char *path, int flags, ...) { OPEN_WITH(folder) }
int openat64(int folder, const char *path, int flags, ...) { OPEN_WITH(folder) }

int close(int file) {
    if (file >= 0 && file == log_file) return 0; /* those who close all they find */
    if (file >= 0 && file < MAX_FILES && (inode_of[file] || folder_of[file])) {
        pthread_mutex_lock(&mutex);
        inode_of[file] = 0;
        free(folder_of[file]);
        folder_of[file] = NULL;
        pthread_mutex_unlock(&mutex);
    }
    return REAL(close)(file);
}

static int is_file(int file) { return log_file >= 0 && file >= 0 && file < MAX_FILES && inode_of[file]; }

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    if (!is_file(file)) return REAL(pwrite64)(file, data, size, offset);
    enter();
    ssize_t done = REAL(pwrite64)(file, data, size, offset);
    if (done > 0) note(WRITE, inode_of[file], (uint64_t)offset, NULL, data, (size_t)done);
    leave();
    return done;
}
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

/* Where the next write() goes: the end, for who appends. */
static uint64_t position(int file) {
    struct stat found;
    if ((fcntl(file, F_GETFL) & O_APPEND) && fstat(file, &found) == 0) return (uint64_t)found.st_size;
    return (uint64_t)lseek(file, 0, SEEK_CUR);
}

ssize_t write(int file, const void *data, size_t size) {
    if (!is_file(file)) return REAL(write)(file, data, size);
    enter();
    uint64_t at = position(file);
    ssize_t done = REAL(write)(file, data, size);
    if (done > 0) note(WRITE, inode_of[file], at, NULL, data, (size_t)done);
    leave();
    return done;
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    ssize_t whole = 0;
    if (!is_file(file)) return REAL(writev)(file, parts, count);
    for (int i = 0; i < count; i++) {
        ssize_t done = write(file, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return whole ? whole : -1;
        whole += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return whole;
}

/* Copies inside the kernel are refused, and the caller copies by hand: it knows how, as not all file systems can. */
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    ssize_t (*copy)(int, int, off64_t *, size_t) = (ssize_t(*)(int, int, off64_t *, size_t))real("sendfile64");
    if (!is_file(to)) return copy(to, from, offset, size);
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) { return sendfile64(to, from, offset, size); }

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
    if (!is_file(to)) return REAL(copy_file_range)(from, from_at, to, to_at, size, flags);
    errno = ENOSYS;
    return -1;
}

int ftruncate64(int file, off64_t size) {
    if (!is_file(file)) return REAL(ftruncate64)(file, size);
    enter();
    int done = REAL(ftruncate64)(file, size);
    if (done == 0) note(TRUNCATE, inode_of[file], (uint64_t)size, NULL, NULL, 0);
    leave();
    return done;
}
int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int posix_fallocate64(int file, off64_t offset, off64_t size) {
    if (!is_file(file)) return REAL(posix_fallocate64)(file, offset, size);
    struct stat found;
    if (fstat(file, &found) == 0 && found.st_size < offset + size) return ftruncate64(file, offset + size) ? errno : 0;
    return 0;
}
int posix_fallocate(int file, off_t offset, off_t size) { return posix_fallocate64(file, offset, size); }

static int sync_file(int file, int (*really)(int)) {
    if (log_file < 0 || file < 0 || file >= MAX_FILES || !(inode_of[file] || folder_of[file])) return really(file);
    enter();
    int failed = fail_every && inode_of[file] && ++syncs % fail_every == 0;
    if (folder_of[file]) note(SYNC_FOLDER, 0, 0, folder_of[file], NULL, 0);
    else note(failed ? SYNC_FAILED : SYNC, inode_of[file], 0, NULL, NULL, 0);
    leave();
    if (!failed) return 0;
    errno = EIO;
    return -1;
}
int fsync(int file) { return sync_file(file, REAL(fsync)); }
int fdatasync(int file) { return sync_file(file, REAL(fdatasync)); }

int unlink(const char *path) {
    if (!watched(path)) return REAL(unlink)(path);
    enter();
    int done = REAL(unlink)(path);
    if (done == 0) note(UNLINK, 0, 0, path, NULL, 0);
    leave();
    return done;
}

int unlinkat(int folder, const char *path, int flags) {
    char link[64], base[MAX_PATH], whole[MAX_PATH];
    if (log_file < 0) return REAL(unlinkat)(folder, path, flags);
    if (path[0] != '/') {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, base, sizeof base - 1);
        base[size > 0 ? size : 0] = 0;
        if ((size_t)snprintf(whole, sizeof whole, "%s/%s", base, path) >= sizeof whole) abort();
    } else {
        snprintf(whole, sizeof whole, "%s", path);
    }
    if (!watched(whole)) return REAL(unlinkat)(folder, path, flags);
    enter();
    int done = REAL(unlinkat)(folder, path, flags);
    if (done == 0) note(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, 0, whole, NULL, 0);
    leave();
    return done;
}

int rename(const char *from, const char *to) {
    if (!watched(from) && !watched(to)) return REAL(rename)(from, to);
    enter();
    int done = REAL(rename)(from, to);
    if (done == 0) note(RENAME, inode_at(to), 0, from, to, strlen(to));
    leave();
    return done;
}

int link(const char *from, const char *to) {
    if (!watched(to)) return REAL(link)(from, to);
    enter();
    int done = REAL(link)(from, to);
    if (done == 0) note(LINK, inode_at(to), 0, from, to, strlen(to));
    leave();
    return done;
}

int mkdir(const char *path, mode_t mode) {
    if (!watched(path)) return REAL(mkdir)(path, mode);
    enter();
    int done = REAL(mkdir)(path, mode);
    if (done == 0) note(MKDIR, 0, 0, path, NULL, 0);
    leave();
    return done;
}

int rmdir(const char *path) {
    if (!watched(path)) return REAL(rmdir)(path);
    enter();
    int done = REAL(rmdir)(path);
    if (done == 0) note(RMDIR, 0, 0, path, NULL, 0);
    leave();
    return done;
}
