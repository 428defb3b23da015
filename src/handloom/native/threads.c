/* Threads that share a job without waiting for one another.

   One 64-bit cursor says which job and phase is being worked on, and how many of its pieces are left. A thread takes
   a piece by counting it down; whoever finishes the last piece of a phase opens the next. So nobody waits for a
   thread that the system has put to sleep, unless it holds a piece: on a busy machine the others do its share. */

#define _GNU_SOURCE
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#if defined(__x86_64__)
#define pause_briefly() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define pause_briefly() __asm__ volatile("yield")
#else
#define pause_briefly() ((void)0)
#endif

enum { SPINS_IN_A_JOB = 2000, SPINS_BETWEEN_JOBS = 4000, ENDED = 0xffff };

/* The cursor: number of the job (24 bits), phase (16), pieces left (24). */
static uint64_t cursor_of(uint64_t job, uint64_t phase, uint64_t left) { return job << 40 | phase << 24 | left; }
static int phase_of(uint64_t cursor) { return (int)(cursor >> 24 & 0xffff); }
static int left_of(uint64_t cursor) { return (int)(cursor & 0xffffff); }

static _Atomic uint64_t cursor = (uint64_t)ENDED << 24;
static atomic_int unfinished; /* pieces of this phase that are not done */
static Job current;           /* stable while a piece of it is held */
static atomic_int allowed;    /* threads that may help */

static pthread_mutex_t one_job = PTHREAD_MUTEX_INITIALIZER, sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER;
static atomic_int sleepers;
static int started = 1; /* threads there are, the caller's included */
static pid_t process;   /* threads do not survive a fork */

/* Open a phase, or end the job where it has no pieces. Only the thread that finished the one before is here. */
static void open_phase(uint64_t job, int phase) {
  int pieces = current.pieces(current.context, phase);
  atomic_store(&unfinished, pieces);
  atomic_store(&cursor, pieces ? cursor_of(job, (uint64_t)phase, (uint64_t)pieces) : cursor_of(job, ENDED, 0));
}

static void help(int thread) {
  for (int spins = 0;;) {
    uint64_t seen = atomic_load(&cursor);
    if (phase_of(seen) == ENDED) return;
    if (!left_of(seen)) { /* others finish what they hold */
      if (++spins < SPINS_IN_A_JOB) pause_briefly();
      else sched_yield();
      continue;
    }
    if (!atomic_compare_exchange_weak(&cursor, &seen, seen - 1)) continue;
    spins = 0;
    current.work(current.context, phase_of(seen), left_of(seen) - 1, thread);
    if (atomic_fetch_sub(&unfinished, 1) == 1) open_phase(seen >> 40, phase_of(seen) + 1);
  }
}

static void *helper(void *argument) {
  int thread = (int)(intptr_t)argument, spins = 0;
  for (uint64_t last = 0;;) {
    uint64_t job = atomic_load(&cursor) >> 40;
    if (job != last) {
      last = job;
      spins = 0;
      if (thread < atomic_load(&allowed)) help(thread);
    } else if (++spins < SPINS_BETWEEN_JOBS) {
      pause_briefly();
    } else {
      pthread_mutex_lock(&sleeping);
      atomic_fetch_add(&sleepers, 1);
      while (atomic_load(&cursor) >> 40 == last) pthread_cond_wait(&begun, &sleeping);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&sleeping);
    }
  }
  return 0;
}

static void start_threads(int threads) {
  pthread_t thread;
  while (started < threads && !pthread_create(&thread, 0, helper, (void *)(intptr_t)started)) {
    pthread_detach(thread);
    started++;
  }
}

void run_job(const Job *job, int threads) {
  if (process != getpid()) {
    process = getpid();
    started = 1;
    atomic_store(&sleepers, 0);
    pthread_mutex_init(&one_job, 0);
    pthread_mutex_init(&sleeping, 0);
    pthread_cond_init(&begun, 0);
  }
  pthread_mutex_lock(&one_job);
  start_threads(threads < MAX_THREADS ? threads : MAX_THREADS);
  current = *job;
  atomic_store(&allowed, threads);
  open_phase(((atomic_load(&cursor) >> 40) + 1) & 0xffffff, 0);
  if (threads > 1 && atomic_load(&sleepers)) {
    pthread_mutex_lock(&sleeping);
    pthread_cond_broadcast(&begun);
    pthread_mutex_unlock(&sleeping);
  }
  help(0);
  pthread_mutex_unlock(&one_job);
}
