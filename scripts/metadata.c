/* One phase of metadata work on the files of a directory, each operation timed alone: what scripts/agree holds beside
 * performance_benchmark.
 *
 *   metadata PHASE DIR COUNT     PHASE is create, create4k, stat, read4k, write4k, rename or unlink
 *
 * Files are DIR/f000000 and so on; rename gives them a g for the f, and unlink removes those.
 * Prints the median and the 99th percentile in microseconds. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char block[4096];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Opens, moves a block if there is something to move, and closes. */
static int with_file(const char *path, int flags, ssize_t (*move)(int)) {
    int file = open(path, flags | O_CLOEXEC, 0644);
    if (file < 0) return -1;
    if (move && move(file) != sizeof block) return -1;
    return close(file);
}

static ssize_t put(int file) { return pwrite(file, block, sizeof block, 0); }
static ssize_t get(int file) { return pread(file, block, sizeof block, 0); }

static int once(const char *phase, const char *from, const char *to) {
    struct stat found;
    if (!strcmp(phase, "create")) return with_file(from, O_WRONLY | O_CREAT | O_EXCL, NULL);
    if (!strcmp(phase, "create4k")) return with_file(from, O_WRONLY | O_CREAT | O_EXCL, put);
    if (!strcmp(phase, "stat")) return lstat(from, &found);
    if (!strcmp(phase, "read4k")) return with_file(from, O_RDONLY, get);
    if (!strcmp(phase, "write4k")) return with_file(from, O_WRONLY, put);
    if (!strcmp(phase, "rename")) return rename(from, to);
    if (!strcmp(phase, "unlink")) return unlink(to);
    errno = EINVAL;
    return -1;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int count = argc == 4 ? atoi(argv[3]) : 0;
    if (count < 1) return fprintf(stderr, "usage: metadata PHASE DIR COUNT\n"), 2;
    memset(block, 7, sizeof block);
    /* The names are made before the clock starts. */
    size_t length = strlen(argv[2]) + 16;
    char *from = malloc(count * length), *to = malloc(count * length);
    double *took = malloc(count * sizeof *took);
    for (int n = 0; n < count; n++) {
        snprintf(from + n * length, length, "%s/f%06d", argv[2], n);
        snprintf(to + n * length, length, "%s/g%06d", argv[2], n);
    }
    for (int n = 0; n < count; n++) {
        double begin = now();
        if (once(argv[1], from + n * length, to + n * length) != 0)
            return fprintf(stderr, "%s %s: %s\n", argv[1], from + n * length, strerror(errno)), 1;
        took[n] = now() - begin;
    }
    qsort(took, count, sizeof *took, ascending);
    printf("%.3f %.3f\n", took[count / 2], took[count - 1 - count / 100]);
    return 0;
}
