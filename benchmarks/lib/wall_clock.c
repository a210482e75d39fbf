/* Preloaded by wall_clock.py: the wall clock of a process is off by the seconds that $CLOCK_OFFSET holds, a double. Clocks
   that only rise are left alone. Triton keeps the machine's clock, because it waits until moments of it, which nothing here
   moves; so does the broker, a static program that preloads nothing. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile double *offset;

__attribute__((constructor)) static void open_offset(void) {
    const char *name = getenv("CLOCK_OFFSET");
    if (name == NULL || strncmp(program_invocation_short_name, "triton", 6) == 0) return;
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) abort();
    void *held = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    if (held == MAP_FAILED) abort();
    close(file);
    offset = held;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, id, now);
    if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += (time_t)rint(*offset);
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return (time_t)-1;
    if (told) *told = exact.tv_sec;
    return exact.tv_sec;
}
