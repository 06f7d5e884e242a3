// Exchanges two paths, atomically and without end: `mv --exchange` came with coreutils 9.5.
//
//   exchange A B        writes a line once they were exchanged, and ends when its input is closed
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    // Looking at the input costs as much as an exchange.
    enum { BETWEEN_LOOKS = 1000 };
    for (unsigned long i = 0;; i++) {
        if (renameat2(AT_FDCWD, argv[1], AT_FDCWD, argv[2], RENAME_EXCHANGE) != 0) {
            fprintf(stderr, "cannot exchange %s and %s: %s\n", argv[1], argv[2], strerror(errno));
            return 1;
        }
        if (i == 0) {
            puts("exchanging");
            fflush(stdout);
        }
        if (i % BETWEEN_LOOKS != 0) continue;
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, 0) > 0 && (input.revents & POLLHUP)) return 0;
    }
}
