/* Loaded before libc into every process of a run: a clock that jumps, a disk that is slow.

   CHAOS_CONTROL names a file of two 64-bit numbers, shared by all: seconds that are added to the
   time of day, and microseconds that every change to the disk takes longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *control;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CHAOS_CONTROL");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *at = mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (at != MAP_FAILED) control = at;
}

#define NEXT(name) \
  static __typeof__(&name) next; \
  if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void linger(void) {
  if (control && control[1] > 0) {
    struct timespec span = {control[1] / 1000000, control[1] % 1000000 * 1000};
    nanosleep(&span, NULL);
  }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  NEXT(clock_gettime);
  int status = next(clock, now);
  if (!status && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += control[0];
  return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  NEXT(gettimeofday);
  int status = next(now, zone);
  if (!status && control) now->tv_sec += control[0];
  return status;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

int fsync(int file) { NEXT(fsync); linger(); return next(file); }
int fdatasync(int file) { NEXT(fdatasync); linger(); return next(file); }
int rename(const char *from, const char *to) { NEXT(rename); linger(); return next(from, to); }
int link(const char *from, const char *to) { NEXT(link); linger(); return next(from, to); }
int unlink(const char *path) { NEXT(unlink); linger(); return next(path); }
