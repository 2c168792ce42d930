/* The same faults in C, as native/ is C: tools/sanitizers must see them, too. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long shared;

static void *add(void *unused) {
    (void)unused;
    for (int i = 0; i < 1000; i++) shared++;
    return NULL;
}

int planted(const char *fault) {
    if (strcmp(fault, "race") == 0) {
        pthread_t other;
        if (pthread_create(&other, NULL, add, NULL)) return 1;
        add(NULL);
        pthread_join(other, NULL);
    } else if (strcmp(fault, "overrun") == 0) {
        volatile char *bytes = malloc(strlen(fault));
        printf("%d\n", bytes[strlen(fault)]);
        free((void *)bytes);
    }
    return 0;
}
