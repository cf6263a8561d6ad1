# Sourced by the bash that TorchX starts (BASH_ENV in .torchxconfig). Python 3.11's torchrun takes a program's `--run`
# for a prefix of its own --run-path and stops; behind `--` it reads no options.
#
# TorchX 0.7's local scheduler knows no retries, so dist.ddp's --max_retries is lost there: torchrun restarts the ranks
# that often itself (PET_MAX_RESTARTS), as the line says that started this shell.
#
# torchrun takes this shell's place: as the first process of a container, the shell would pass on no SIGTERM, and a pod that
# is moved would be killed without having saved.
#
# Ranks share the cores that this process may use: torchrun would give each one thread, however many there are.
#
# torchrun's stores listen on all interfaces. On one node components/one_node.py binds them to the loopback interface.
#
# On several nodes each start of the ranks has a store of its own: torchrun's shared one keeps the addresses of ranks that
# ended, and nodes that stay look for it where it was before rank 0 moved to another node.
torchrun() {
    if [ -z "${PET_MAX_RESTARTS:-}" ] && [ -r "/proc/$PPID/cmdline" ]; then
        local line
        line=$(tr '\0' ' ' <"/proc/$PPID/cmdline")
        if [[ $line =~ --max_retries[=\ ]([0-9]+) ]]; then export PET_MAX_RESTARTS=${BASH_REMATCH[1]}; fi
    fi
    local words=() word
    for word; do
        words+=("$word")
        if [ "$word" = -m ]; then words+=(--); shift; break; fi
        shift
    done
    local launcher=(torchrun) python threads
    python=$(dirname "$(type -P torchrun)")/python
    if [ -z "${OMP_NUM_THREADS:-}" ] && [[ " ${words[*]} " =~ \ --nproc[-_]per[-_]node[\ =]([0-9]+)\  ]]; then
        threads=$("$python" -P -m skipwise.common.machine "${BASH_REMATCH[1]}") && export OMP_NUM_THREADS=$threads
    fi
    if [[ " ${words[*]} " =~ \ --nnodes[\ =]([01]:)?1\  ]]; then
        launcher=("$python" -P -m skipwise.components.one_node)
    else
        export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    fi
    export BASH_ENV=''
    exec "${launcher[@]}" "${words[@]}" "$@"
}
