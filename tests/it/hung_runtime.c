/* Preloaded into a program, it hangs the threads whose name stands in the file that HUNG_THREADS names, for as long as it stands
 * there: when they next wait for something to happen. A thread that hangs leaves a file `<the file>.<its name>`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

static int is_to_hang(const char *name) {
    char hung[16] = {0};
    const char *path = getenv("HUNG_THREADS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t length = read(file, hung, sizeof hung - 1);
    close(file);
    return length > 0 && !strcmp(hung, name);
}

int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout) {
    static int (*wait)(int, struct epoll_event *, int, int);
    if (!wait) wait = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    int happened = wait(epoll, events, count, timeout);
    char name[16] = {0};
    prctl(PR_GET_NAME, name);
    while (is_to_hang(name)) {
        char mark[4096];
        snprintf(mark, sizeof mark, "%s.%s", getenv("HUNG_THREADS"), name);
        close(open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        usleep(10000);
    }
    return happened;
}
