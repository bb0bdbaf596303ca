/* Prints the Nth Fibonacci number: a WASI p1 command written in C. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    char *end = NULL;
    long n = argc > 1 ? strtol(argv[1], &end, 10) : 20;
    if ((end && *end) || n < 0 || n > 92) {
        fprintf(stderr, "usage: fib N, where N is 0 to 92\n");
        return 2;
    }
    unsigned long long a = 0, b = 1;
    for (long i = 0; i < n; i++) {
        unsigned long long next = a + b;
        a = b;
        b = next;
    }
    printf("%llu\n", a);
    return 0;
}
