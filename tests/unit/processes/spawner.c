/* An engine in small: `spawner RANKS DELAY_MS RANK COMMAND…` starts MPI, waits, and spawns RANKS processes that run
 * COMMAND. It prints `spawned` and then waits for ever, as the orchestrator does. Without arguments it is such a
 * rank: it joins the others and prints how many cores it may use. */
#define _GNU_SOURCE
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  if (argc > 3) {
    MPI_Comm ranks;
    usleep(1000 * atoi(argv[2]));
    MPI_Comm_spawn(argv[3], argc > 4 ? argv + 4 : MPI_ARGV_NULL, atoi(argv[1]), MPI_INFO_NULL, 0, MPI_COMM_SELF, &ranks,
                   MPI_ERRCODES_IGNORE);
    puts("spawned");
  } else {
    cpu_set_t cores;
    sched_getaffinity(0, sizeof cores, &cores);
    printf("%d cores\n", CPU_COUNT(&cores));
  }
  fflush(stdout);
  for (;;) pause();
}
