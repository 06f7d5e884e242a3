// A program that changes all of its ids to those of its owner, as su and sudo do, and waits. For tests that give it the
// set-user-ID bit.

#define _GNU_SOURCE
#include <unistd.h>

int main(void)
{
    if (setresgid(getegid(), getegid(), getegid()) != 0) return 1;
    if (setresuid(geteuid(), geteuid(), geteuid()) != 0) return 1;
    for (;;) pause();
}
