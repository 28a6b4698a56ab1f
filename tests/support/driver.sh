#!/bin/sh
# Stand-in for the embedded backend's driver: misbehaves as $FAULT says, by itself or around the real driver.
real=/usr/local/bin/real-candle

# Hands messages on up to the answer to the second pass.
until_second_pass() {
    while read -r line; do
        case "$line" in
        *'"pass_done","pass":1,'*)
            [ "$FAULT" = hang_in_window ] && exec sleep 1000
            echo "about to die" >&2
            kill -9 $$
            ;;
        esac
        printf '%s\n' "$line"
    done
}

# Names that the agent and the controller will write to or read from.
plant_links() {
    cd /llem/out || exit 9
    for name in driver.log requests.jsonl samples.jsonl report.json .report.json.partial result.json; do
        ln -s "$TARGET" "$name"
    done
    ln -s / root
    mkfifo pipe
}

case "$FAULT" in
exit_at_import)
    echo "ImportError: something is missing" >&2
    exit 3
    ;;
wait_in_import)
    while [ ! -e /tmp/go ]; do sleep 0.1; done
    exec "$real"
    ;;
hang_in_load)
    # Introduces itself as the real one does, then takes the request and says nothing.
    "$real" </dev/null
    exec sleep 1000
    ;;
stubborn_in_load)
    # As above, but deaf to signals.
    "$real" </dev/null
    trap '' TERM INT
    while :; do sleep 1000; done
    ;;
gpu_out_of_memory)
    # Four requests at once are too many.
    case "$(sed -n '/"batch_size": 4/p' /llem/job.json)" in
    ?*)
        "$real" </dev/null
        echo '{"message":"error","kind":"torch.OutOfMemoryError","text":"CUDA out of memory. Tried to allocate 2.00 GiB.","causes":[]}'
        exit 1
        ;;
    esac
    exec "$real"
    ;;
hang_in_window)
    # The warm-up is pass 0; the answer to the next one never comes.
    "$real" | until_second_pass
    ;;
die_in_window)
    "$real" | until_second_pass
    ;;
short_records)
    # One token fewer in every record than was asked for.
    exec "$real" | sed -u -e 's/"token_ns":\[[0-9]*,/"token_ns":[/' -e 's/"output_ids":\[[0-9]*,/"output_ids":[/'
    ;;
other_work)
    # Does other work than asked and is honest about it: every request ends after two tokens.
    sed 's/"output_tokens":[0-9]*/"output_tokens":2/' /llem/workload.jsonl >/tmp/workload.jsonl
    sed -u 's#/llem/workload.jsonl#/tmp/workload.jsonl#' | "$real"
    ;;
links)
    plant_links
    exec "$real"
    ;;
links_only)
    plant_links
    kill -9 $PPID
    sleep 1000
    ;;
locked)
    mkdir -p /llem/out/locked/deep
    echo something >/llem/out/locked/deep/file
    chmod 0 /llem/out/locked/deep /llem/out/locked
    exec "$real"
    ;;
forged_done)
    # The first process of the container writes to the same pipe as the agent.
    echo '{"seq":1000,"t_ns":1,"event":"done","report_sha256":"0000"}' >/proc/1/fd/1
    exit 4
    ;;
forged_report)
    # The report of another run with a matching digest, and an agent that cannot contradict.
    printf '%s' "$REPORT" >/llem/out/report.json
    echo "{\"seq\":1000,\"t_ns\":1,\"event\":\"done\",\"report_sha256\":\"$SHA256\"}" >/proc/1/fd/1
    kill -9 $PPID
    sleep 1000
    ;;
flood)
    # More than any log keeps, on the driver's and the container's own streams, and as a file.
    head -c 30000000 /dev/zero >&2
    head -c 30000000 /dev/zero >/proc/1/fd/1
    head -c 30000000 /dev/zero >/proc/1/fd/2
    head -c 30000000 /dev/zero >/llem/out/huge
    exec "$real"
    ;;
*)
    exec "$real"
    ;;
esac
