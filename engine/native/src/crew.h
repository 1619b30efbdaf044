/* Threads that go through a job together, phase by phase.

   Every thread of the crew runs the same function; within a phase they take tasks as they get on, so that a thread that
   the editor keeps from its core takes fewer; a barrier ends the phase. Between jobs the threads sleep. */
#pragma once

typedef struct Crew Crew;

/* A crew of so many threads, the caller's included; null if there is no memory or no thread for it. */
Crew *crew_new(int threads);

/* No job may be under way. */
void crew_free(Crew *crew);

/* Run `work` in the first `threads` threads of the crew, at most all, and return when all are done.

   Returns the share of the time, 0 … 1, that the thread which had the least of its core was kept from it by others. */
double crew_run(Crew *crew, int threads, void (*work)(void *job, int thread), void *job);

/* Of the phase's tasks take the next `count`; returns the number of the first. */
int crew_take(Crew *crew, int count);

/* Of a phase's `tasks` take the next `count` of the thread's own share, which lies together, or when that is done of
   another's: memory that is read on and on is read faster. Returns how many were taken, 0 when all are, and the first.
   A phase takes its tasks either this way or the other. */
int crew_take_near(Crew *crew, int thread, int tasks, int count, int *first);

/* How many threads go through the job that is under way. */
int crew_threads(const Crew *crew);

/* Wait for all threads; the next phase's tasks are counted from 0. */
void crew_meet(Crew *crew);
