#!/bin/sh
# Starts a real Slurm on this machine alone, captures the organism as a job array, and compares the store byte for byte with that of a
# single run. Run as root on Debian (it installs slurm-wlm and munge if they are missing):
#
#   cargo build --release --example capture && cargo build --release -p sgm-experiments --bin store
#   tools/cluster/slurm.sh [TASKS] [DIRECTORY OF THE EXAMPLES]
set -eu
tasks=${1:-4}
here=$(cd "$(dirname "$0")" && pwd)
binaries=${2:-$here/../../target/release/examples}
binaries=$(cd "$binaries" && pwd)
command -v slurmctld >/dev/null && command -v munged >/dev/null ||
    DEBIAN_FRONTEND=noninteractive apt-get install -y slurm-wlm munge

work=$(mktemp -d)
chmod 755 "$work"
node=$(hostname -s)
mkdir "$work/state" "$work/spool" "$work/run"
head -c 1024 /dev/urandom >"$work/munge.key"
chmod 400 "$work/munge.key"
cat >"$work/slurm.conf" <<CONF
ClusterName=single
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/run/munge.socket
CryptoType=crypto/munge
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/run/slurmctld.pid
SlurmdPidFile=$work/run/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"

munged --foreground --force --key-file="$work/munge.key" --socket="$work/run/munge.socket" --pid-file="$work/run/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munge.seed" &
munge=$!
sleep 1
slurmctld -D -f "$SLURM_CONF" &
controller=$!
sleep 2
slurmd -D -f "$SLURM_CONF" -N "$node" &
daemon=$!
trap 'kill $daemon $controller $munge 2>/dev/null; wait 2>/dev/null || true' EXIT
for _ in $(seq 30); do
    sinfo -h -o %T 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo

options="--pool mean,max --tokens all,response --shard-samples 64"
"$binaries/capture" --out "$work/single" $options
SGM_CAPTURE="$binaries/capture" sbatch --wait --array="1-$tasks" --output="$work/task-%a.log" "$here/capture.sbatch" \
    --out "$work/array" $options
cat "$work"/task-*.log
"$binaries/../store" verify "$work/array"
diff -r "$work/single" "$work/array"
echo "the stores of 1 process and of $tasks Slurm tasks are the same, byte for byte"
# The same with a task that is killed and queued again while it works.
SGM_CAPTURE="$binaries/capture" sbatch --array="0-1" --output="$work/again-%a.log" --open-mode=append "$here/capture.sbatch" \
    --out "$work/again" $options >"$work/submitted"
job=$(sed 's/[^0-9]//g' "$work/submitted")
for _ in $(seq 600); do
    ls "$work/again" 2>/dev/null | grep -q '\.json$' && [ "$(ls "$work/again" | grep -c shard-.*json)" -ge 2 ] && break
    sleep 0.1
done
scontrol requeue "${job}_0" && echo "task 0 was requeued with $(ls "$work/again" | grep -c 'shard-.*json') shards there"
for _ in $(seq 1800); do
    [ -e "$work/again/manifest.json" ] && break
    # A requeued task waits for a while by default.
    scontrol update jobid="${job}_0" StartTime=now 2>/dev/null || true
    sleep 1
done
while squeue -h -j "$job" 2>/dev/null | grep -q .; do sleep 1; done
diff -r "$work/single" "$work/again"
echo "and so is that of 2 tasks of which one was requeued"
trap - EXIT
kill $daemon $controller $munge 2>/dev/null
wait 2>/dev/null || true
rm -rf "$work"
