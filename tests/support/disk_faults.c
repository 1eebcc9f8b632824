/* Preloaded into a process under test: makes the disk below the files named in DYRYGENTD_TEST_DISK_FILES refuse or slow down.
 *
 * What happens stands in the file DYRYGENTD_TEST_DISK_FAULT: nothing, "full", "broken", "read-only", or "slow MILLISECONDS".
 * The file DYRYGENTD_TEST_CLOCK holds by how many seconds the clock of this process is set, as libfaketime would do it.
 * Only system calls are touched, so SQLite and all above it are the real ones.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int is_meant(int fd)
{
    char link[64], path[4096];
    const char *files = getenv("DYRYGENTD_TEST_DISK_FILES");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!files || length <= 0)
        return 0;
    path[length] = 0;
    return strstr(path, files) != NULL;
}

static void read_fault(char *fault, size_t size)
{
    const char *path = getenv("DYRYGENTD_TEST_DISK_FAULT");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = fd < 0 ? 0 : read(fd, fault, size - 1);
    if (fd >= 0)
        close(fd);
    fault[length > 0 ? length : 0] = 0;
}

/* Returns the error that a write to this file meets, 0 for none. */
static int error_of_write(int fd)
{
    char fault[64];
    if (!is_meant(fd))
        return 0;
    read_fault(fault, sizeof fault);
    if (!strcmp(fault, "full"))
        return ENOSPC;
    if (!strcmp(fault, "broken"))
        return EIO;
    if (!strcmp(fault, "read-only"))
        return EROFS;
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if ((errno = error_of_write(fd)))
        return -1;
    return REAL(pwrite)(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    if ((errno = error_of_write(fd)))
        return -1;
    return REAL(pwrite64)(fd, data, size, offset);
}

ssize_t write(int fd, const void *data, size_t size)
{
    int error = error_of_write(fd);
    if (error) {
        errno = error;
        return -1;
    }
    return REAL(write)(fd, data, size);
}

int clock_gettime(clockid_t which, struct timespec *now)
{
    char text[64];
    const char *path = getenv("DYRYGENTD_TEST_CLOCK");
    int result = REAL(clock_gettime)(which, now);
    int fd = which == CLOCK_REALTIME && path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        text[length > 0 ? length : 0] = 0;
        now->tv_sec += atol(text);
    }
    return result;
}

static int error_of_sync(int fd)
{
    char fault[64];
    if (!is_meant(fd))
        return 0;
    read_fault(fault, sizeof fault);
    if (!strncmp(fault, "slow ", 5))
        usleep(1000 * (useconds_t)atoi(fault + 5));
    return !strcmp(fault, "broken") ? EIO : 0;
}

int fsync(int fd)
{
    if ((errno = error_of_sync(fd)))
        return -1;
    return REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    if ((errno = error_of_sync(fd)))
        return -1;
    return REAL(fdatasync)(fd);
}
