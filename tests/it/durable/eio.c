/* Makes writes and syncs of segments fail with EIO while the folder TOLLGATE_TEST_EIO has a file of that name
   (pwrite, fdatasync), or once for a file NAME.once. Loaded before the C library by LD_PRELOAD. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int fd, const char *what) {
  char link[64], path[4096], flag[4096];
  const char *folder = getenv("TOLLGATE_TEST_EIO");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t len = readlink(link, path, sizeof path - 1);
  if (folder == NULL || len < 4 || memcmp(path + len - 4, ".seg", 4) != 0) return 0;
  snprintf(flag, sizeof flag, "%s/%s.once", folder, what);
  if (unlink(flag) == 0) return 1;
  snprintf(flag, sizeof flag, "%s/%s", folder, what);
  return access(flag, F_OK) == 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
  if (fails(fd, "pwrite")) {
    errno = EIO;
    return -1;
  }
  return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

int fdatasync(int fd) {
  if (fails(fd, "fdatasync")) {
    errno = EIO;
    return -1;
  }
  return syscall(SYS_fdatasync, fd);
}
