#!/bin/bash
# Shares a run among the tasks of a Slurm array, on a folder that all nodes see:
#
#   RUN=$(robusteval run --model pcl_cifar10 --suite full --out /shared/runs --prepare)
#   JOB=$(sbatch --parsable examples/slurm/shards.sh "$RUN")
#   sbatch --dependency=afterany:"$JOB" --wrap "robusteval work $RUN --finish"
#
# Any number of tasks may run at any time; each begins at its own share of the jobs and then helps
# with the others'.  One that is ended before its time limit frees its job at once, one that is
# killed after a minute.  The last line above does what is still missing, and writes the report.
#SBATCH --job-name=robusteval
#SBATCH --array=1-8
#SBATCH --cpus-per-task=1
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log

srun robusteval work "$1"
