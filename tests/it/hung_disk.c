/* Preloaded into a program, it hangs whoever syncs data to a disk for as long as the file stands that HUNG_DISK names. Whoever hangs
 * leaves a file `<the file>.hangs`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int file) {
    static int (*sync)(int);
    if (!sync) sync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    const char *path = getenv("HUNG_DISK");
    while (path && access(path, F_OK) == 0) {
        char mark[4096];
        snprintf(mark, sizeof mark, "%s.hangs", path);
        close(open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        usleep(10000);
    }
    return sync(file);
}
