/*
 * Preloaded into a server: its disk takes as long as a test wants it to, and says how much of each file it holds.
 *
 * While `hold` exists in the folder $HELD_DISK a sync does not return; `held` is made by the first one that waits. A sync that has
 * returned leaves a line in `synced`: the file's inode, and its length when the sync began.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *in_folder(char *path, const char *name) {
  snprintf(path, PATH_MAX, "%s/%s", getenv("HELD_DISK"), name);
  return path;
}

static int synced(long call, int fd) {
  char path[PATH_MAX], line[64];
  struct stat file;
  if (fstat(fd, &file) != 0) return -1;
  if (access(in_folder(path, "hold"), F_OK) == 0) {
    close(open(in_folder(path, "held"), O_CREAT | O_WRONLY, 0600));
    while (access(in_folder(path, "hold"), F_OK) == 0) usleep(1000);
  }
  int result = (int)syscall(call, fd);
  if (result != 0) return result;
  int log = open(in_folder(path, "synced"), O_CREAT | O_WRONLY | O_APPEND, 0600);
  int length = snprintf(line, sizeof line, "%lu %ld\n", (unsigned long)file.st_ino, (long)file.st_size);
  int written = log >= 0 && write(log, line, length) == length;
  close(log);
  return written ? 0 : -1;
}

int fsync(int fd) { return synced(SYS_fsync, fd); }

int fdatasync(int fd) { return synced(SYS_fdatasync, fd); }
