/* Ends the process at the n-th fsync, before or after it takes effect; preloaded into the processes that the tests kill.
 *
 * chaos_arm(n, after) is called in the process that is to die. Nothing else here changes what a process does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

static volatile long countdown = 0;
static volatile int die_after = 0;
static volatile long calls = 0;

void chaos_arm(long n, int after) {
    die_after = after;
    countdown = n;
    calls = 0;
}

long chaos_calls(void) { return calls; }

static int synced(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int last;
    __sync_fetch_and_add(&calls, 1);
    last = countdown > 0 && __sync_sub_and_fetch(&countdown, 1) == 0;
    if (last && !die_after) kill(getpid(), SIGKILL);
    int result = real(fd);
    if (last && die_after) kill(getpid(), SIGKILL);
    return result;
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
