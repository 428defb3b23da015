/* A job is a row of phases, each of some pieces; a phase begins when all pieces of the one before are done. */

#ifndef HANDLOOM_THREADS_H
#define HANDLOOM_THREADS_H

enum { MAX_THREADS = 64 };

typedef struct {
  void *context;
  int (*pieces)(void *context, int phase);                        /* how many; 0 ends the job */
  void (*work)(void *context, int phase, int piece, int thread);  /* thread: 0 to threads - 1 */
} Job;

/* Do a job with up to that many threads, the caller's among them. One job runs at a time; others wait. */
void run_job(const Job *job, int threads);

#endif
