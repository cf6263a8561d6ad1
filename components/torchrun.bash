# Sourced by the bash that TorchX starts (BASH_ENV in .torchxconfig). Python 3.11's torchrun takes a program's `--run`
# for a prefix of its own --run-path and stops; behind `--` it reads no options.
torchrun() {
    local words=() word
    for word; do
        words+=("$word")
        if [ "$word" = -m ]; then words+=(--); shift; break; fi
        shift
    done
    BASH_ENV='' command torchrun "${words[@]}" "$@"
}
