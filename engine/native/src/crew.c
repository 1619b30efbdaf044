#define _GNU_SOURCE
#include "crew.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How often a thread looks again before it lets others have its core: some microseconds, a few phases' difference. */
enum { PATIENCE = 4000 };

typedef struct {
    _Alignas(64) Crew *crew; /* a line of its own: every thread counts on its own `taken` */
    int number;
    atomic_int taken; /* of its own share of the tasks */
    double kept;      /* share of its last job's time that others had its core */
    pthread_t thread;
} Hand;

struct Crew {
    int size, active;
    void (*work)(void *, int);
    void *job;
    atomic_int next_task, waiting;
    atomic_uint phase;
    atomic_int unfinished;
    /* below the lock */
    pthread_mutex_t lock;
    pthread_cond_t called;
    unsigned jobs;
    int closing;
    Hand hands[];
};

static void breathe(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_a_little(int looked) {
    if (looked < PATIENCE)
        breathe();
    else
        sched_yield();
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void do_job(Crew *crew, Hand *hand) {
    double begun = seconds(CLOCK_MONOTONIC), had = seconds(CLOCK_THREAD_CPUTIME_ID);
    crew->work(crew->job, hand->number);
    double took = seconds(CLOCK_MONOTONIC) - begun;
    had = seconds(CLOCK_THREAD_CPUTIME_ID) - had;
    hand->kept = took > had ? (took - had) / took : 0;
}

static void *stand_by(void *of) {
    Hand *hand = of;
    Crew *crew = hand->crew;
    unsigned seen = 0;
    for (;;) {
        pthread_mutex_lock(&crew->lock);
        while (crew->jobs == seen && !crew->closing) pthread_cond_wait(&crew->called, &crew->lock);
        seen = crew->jobs;
        int closing = crew->closing, wanted = hand->number < crew->active;
        pthread_mutex_unlock(&crew->lock);
        if (closing) return NULL;
        if (!wanted) continue;
        do_job(crew, hand);
        atomic_fetch_sub(&crew->unfinished, 1);
    }
}

static void take_anew(Crew *crew) {
    atomic_store(&crew->next_task, 0);
    for (int i = 0; i < crew->active; i++) atomic_store(&crew->hands[i].taken, 0);
}

Crew *crew_new(int threads) {
    size_t size = sizeof(Crew) + (size_t)threads * sizeof(Hand);
    Crew *crew = aligned_alloc(_Alignof(Crew), size); /* a multiple of it, as its parts are */
    if (!crew) return NULL;
    memset(crew, 0, size);
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->called, NULL);
    crew->size = 1;
    for (int i = 1; i < threads; i++) {
        crew->hands[i] = (Hand){.crew = crew, .number = i};
        if (pthread_create(&crew->hands[i].thread, NULL, stand_by, &crew->hands[i])) {
            crew_free(crew);
            return NULL;
        }
        crew->size++;
    }
    return crew;
}

void crew_free(Crew *crew) {
    pthread_mutex_lock(&crew->lock);
    crew->closing = 1;
    pthread_cond_broadcast(&crew->called);
    pthread_mutex_unlock(&crew->lock);
    for (int i = 1; i < crew->size; i++) pthread_join(crew->hands[i].thread, NULL);
    pthread_cond_destroy(&crew->called);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
}

double crew_run(Crew *crew, int threads, void (*work)(void *, int), void *job) {
    pthread_mutex_lock(&crew->lock);
    crew->active = threads < crew->size ? threads : crew->size;
    crew->work = work;
    crew->job = job;
    take_anew(crew);
    atomic_store(&crew->waiting, 0);
    atomic_store(&crew->unfinished, crew->active - 1);
    if (crew->active > 1) {
        crew->jobs++;
        pthread_cond_broadcast(&crew->called);
    }
    pthread_mutex_unlock(&crew->lock);
    do_job(crew, &crew->hands[0]);
    for (int looked = 0; atomic_load(&crew->unfinished); looked++) wait_a_little(looked);
    double kept = 0;
    for (int i = 0; i < crew->active; i++) kept = crew->hands[i].kept > kept ? crew->hands[i].kept : kept;
    return kept;
}

int crew_take(Crew *crew, int count) { return atomic_fetch_add(&crew->next_task, count); }

int crew_take_near(Crew *crew, int thread, int tasks, int count, int *first) {
    const int threads = crew->active;
    for (int i = 0; i < threads; i++) {
        const int owner = (thread + i) % threads;
        const int begin = (int)((int64_t)tasks * owner / threads), end = (int)((int64_t)tasks * (owner + 1) / threads);
        *first = begin + atomic_fetch_add(&crew->hands[owner].taken, count);
        if (*first < end) return count < end - *first ? count : end - *first;
    }
    return 0;
}

int crew_threads(const Crew *crew) { return crew->active; }

void crew_meet(Crew *crew) {
    unsigned phase = atomic_load(&crew->phase);
    if (atomic_fetch_add(&crew->waiting, 1) == crew->active - 1) {
        atomic_store(&crew->waiting, 0);
        take_anew(crew);
        atomic_fetch_add(&crew->phase, 1);
        return;
    }
    for (int looked = 0; atomic_load(&crew->phase) == phase; looked++) wait_a_little(looked);
}
