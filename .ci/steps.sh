# Functions of .ci/run.

# pip's warnings are about places of ours that do not have this or that.
export PIP_QUIET=1

not_run=()
failed=()
flickered=()
done_steps=()
lanes=()

say() { printf '\n== %s\n' "$*" >&2; }

# What is worth knowing while lanes run, whose own output comes when they have ended.
exec 3>&2
announce() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&3; }

# The commands are read from the README, so that CI and the README cannot drift apart.
command_after() {
    awk -v marker="<!-- $1 -->" '
        $0 == marker                { marked = 1; next }
        marked && !inside && /^```/ { inside = 1; next }
        inside && /^```/            { found = 1; exit }
        inside                      { print }
        marked && !inside && NF     { exit }
        END                         { exit !found }
    ' README.md || { say "FAILED: README.md has no fenced block after a line '<!-- $1 -->'"; exit 1; }
}

clean_up() {
    local lane
    for lane in "${lanes[@]}"; do kill -- "-$lane" 2>/dev/null || true; done
    cd /
    rm -rf "$scratch"
}

# Find a program on PATH, or install Debian's package of its name as a whole.
installed() {
    command -v "$1" >/dev/null || { [ "$(id -u)" = 0 ] &&
        { apt-get install -qq -y --no-install-recommends "$1" ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends "$1"; }; } >/dev/null 2>&1; }
}

# interpreter VERSION: print the path of a Python of this version that can make virtual environments; the distribution's
# comes first, as its users have that one.
interpreter() {
    local found
    for found in "/usr/bin/python$1" $(type -aP "python$1") "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/"python$1"; do
        if "$found" -c "import ensurepip, sqlite3, ssl, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            "$found" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# step NAME COMMAND…: run it; note its failure, and how long it took.
step() {
    local name=$1 began=$SECONDS cpu_before
    shift
    count_cpu
    cpu_before=$cpu_s
    say "$name"
    announce "begins: $name"
    tmp=$(mktemp -d "$scratch/tmp.XXXXXX")
    chmod 1777 "$tmp"
    "$@" || failed+=("$name")
    nothing_left_behind "$name"
    count_cpu
    local took=$((SECONDS - began)) cpu=$((cpu_s - cpu_before))
    done_steps+=("$(printf '%3d:%02d %3d:%02d  %s' $((took / 60)) $((took % 60)) $((cpu / 60)) $((cpu % 60)) "$name")")
    announce "ended:${done_steps[-1]}"
}

# count_cpu: set cpu_s to the seconds of CPU time that all have taken which this shell has started and which have ended.
count_cpu() {
    # By a file, as a subshell has no children yet.
    local file=$scratch/times.$BASHPID
    times >"$file"
    cpu_s=$(awk -F '[ms ]+' 'NR == 2 { print int(60 * $1 + $2 + 60 * $3 + $4) }' "$file")
}

# side_by_side LANE…: run these functions at one time, each in a shell of its own, and take over what they noted. What they print
# comes when all have ended, one after the other.
side_by_side() {
    local lane list
    local -A pids
    # Each a group of its own, which can be ended with all that it started.
    set -m
    for lane in "$@"; do
        {
            not_run=() failed=() flickered=() done_steps=()
            trap 'hand_over "$scratch/$lane"' EXIT
            "$lane"
        } >"$scratch/$lane.said" 2>&1 &
        pids[$lane]=$!
        lanes+=("$!")
    done
    set +m
    for lane in "$@"; do
        wait "${pids[$lane]}" || failed+=("$lane did not come to its end: status $?")
        cat "$scratch/$lane.said" >&2
        for list in not_run failed flickered done_steps; do
            [ ! -e "$scratch/$lane.$list" ] || mapfile -t -d '' -O "$(count_of "$list")" "$list" <"$scratch/$lane.$list"
        done
    done
    lanes=()
}

# hand_over PREFIX: write the lists of this shell into files; an empty list has none.
hand_over() {
    local list
    for list in not_run failed flickered done_steps; do
        local -n items=$list
        ((${#items[@]} == 0)) || printf '%s\0' "${items[@]}" >"$1.$list"
    done
}

count_of() {
    local -n items=$1
    echo "${#items[@]}"
}

# own_clone NAME: go to a clone that no other lane uses.
own_clone() {
    git clone --quiet . "$scratch/$1"
    cd "$scratch/$1"
}

# first_come STEPS…: carry out those of these functions that no other lane has begun.
first_come() {
    local each
    for each in "$@"; do
        ! mkdir "$scratch/begun.$each" 2>/dev/null || "$each"
    done
}

# own_venv: have in this lane's clone what the README's test command has made where it was run.
own_venv() {
    [ -x .venv/bin/ruff ] || { "$python" -m venv .venv && .venv/bin/pip install -q -e '.[test]'; } || failed+=("no .venv in $PWD")
}

# tests NAME FLOOR COMMAND…: a step that runs pytest, and of which so many tests at least have to pass.
tests() {
    local name=$1 floor=$2
    shift 2
    # A directory that whoever runs the step may write to, and that is gone with it.
    junit=$(mktemp -d "$scratch/junit.XXXXXX")
    chmod 1777 "$junit"
    step "$name" twice "$name" "$@"
    # What was run is counted by the report and not by the exit status, which an empty selection or a crash could better.
    python3 "$ci/counted.py" "$junit/tests.xml" "$floor" >"$junit/said" || failed+=("$name: $(tail -n 1 "$junit/said")")
    cat "$junit/said" >&2
    while read -r line; do not_run+=("$name: $line"); done < <(sed -n 's/^skipped //p' "$junit/said")
}

# twice NAME COMMAND…: run pytest; if a few tests fail, those once more. Passing then is no secret: it is told at the end, as a
# test that flickers is a fault, of it or of the product. More than a few are no flicker.
twice() {
    local name=$1 own=${PYTEST_ADDOPTS:-} broken
    shift
    PYTEST_ADDOPTS="--junit-xml=$junit/tests.xml $own" "$@" && return
    mapfile -t broken < <(python3 "$ci/counted.py" "$junit/tests.xml" broken)
    ((${#broken[@]} >= 1 && ${#broken[@]} <= 5)) || return 1
    say "$name: what failed, once more"
    PYTEST_ADDOPTS="--last-failed --last-failed-no-failures=none --junit-xml=$junit/again.xml $own" "$@" || return 1
    flickered+=("${broken[@]/#/$name: }")
}

# own_tmp COMMAND…: run it with a /tmp of its own, so that what it leaves there is seen, and is gone with us.
own_tmp() {
    if ((has_namespaces)); then
        unshare --mount --propagation private sh -c 'mount --bind "$0" /tmp && exec "$@"' "$tmp" "$@"
    else
        "$@"
    fi
}

has_namespaces=0
[ "$(id -u)" = 0 ] && unshare --mount --net true 2>/dev/null && has_namespaces=1

# pytest keeps the directories of its last three runs.
nothing_left_behind() {
    local left
    left=$(find "$tmp" -mindepth 1 -maxdepth 1 ! -name 'pytest-of-*' -printf '%f ')
    [ -z "$left" ] || failed+=("$1: left behind in /tmp: $left")
}

# Find out what is here. What a test needs and Debian has as a package is unpacked: of this machine nothing changes but the browser.
services() {
    local tool
    if (exec 3<>/dev/tcp/127.0.0.1/5672) 2>/dev/null; then
        # A test that does not find it from now on fails.
        export DYRYGENTD_TEST_AMQP=${DYRYGENTD_TEST_AMQP:-amqp://guest:guest@127.0.0.1:5672//}
    else
        not_run+=("tests on RabbitMQ: nothing answers on 127.0.0.1:5672")
    fi
    (exec 3<>/dev/tcp/127.0.0.1/5432) 2>/dev/null || not_run+=("results in PostgreSQL: nothing answers on 127.0.0.1:5432")
    postgres_programs
    command -v redis-server >/dev/null || command -v valkey-server >/dev/null ||
        not_run+=("tests on the distribution's Redis: no server on PATH, so the one of the 'embedded' extra is used")
    command -v openssl >/dev/null && command -v redis-server >/dev/null ||
        not_run+=("tests of TLS: no openssl or redis-server on PATH, and the server of the 'embedded' extra may lack it")
    if ! command -v prometheus >/dev/null; then
        mkdir "$scratch/prometheus"
        if (cd "$scratch/prometheus" && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .) >/dev/null 2>&1 ||
            (cd "$scratch/prometheus" && apt-get update && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .) >/dev/null 2>&1; then
            export DYRYGENTD_TEST_PROMETHEUS="$scratch/prometheus/usr/bin"
        else
            not_run+=("tests with Prometheus: there is none on PATH, and Debian's package could not be downloaded")
        fi
    fi
    # A browser is installed as a whole: it needs dozens of libraries, and nothing of it is used but by the tests of the page.
    installed chromium || not_run+=("tests of the page in a browser: no chromium on PATH, and Debian's package could not be installed")
    # Tests start one of their own; Debian's is not to be started.
    command -v sshd >/dev/null && command -v ssh >/dev/null || RUNLEVEL=1 installed openssh-server ||
        not_run+=("a daemon on another host, by ssh: no sshd on PATH, and Debian's package could not be installed")
    for shell in zsh fish; do
        installed "$shell" || not_run+=("completion in $shell: it is not on PATH, and Debian's package could not be installed")
    done
    for tool in systemd-analyze systemd-socket-activate systemd-notify strace man groff sqlite3 cc; do
        command -v "$tool" >/dev/null || not_run+=("tests that need $tool: not on PATH")
    done
}

# The database on PostgreSQL is tested on servers that the tests start, for which its programs do. Once they are found, a test that does
# not find them fails.
postgres_programs() {
    local place
    for place in "${DYRYGENTD_TEST_POSTGRES:-}" /usr/lib/postgresql/*/bin; do
        if [ -x "$place/initdb" ]; then
            export DYRYGENTD_TEST_POSTGRES="$place"
            return
        fi
    done
    not_run+=("tests of the database on PostgreSQL: no initdb in /usr/lib/postgresql/*/bin (Debian: apt-get install postgresql)")
}

# 2. As somebody who has nothing but Debian's essential packages, git and a Python. The commands are run as they stand,
# but for their last part the network is cut, which shows that nothing is fetched after the installation.
stranger_steps() {
    local python line
    if ! ((has_namespaces)); then
        not_run+=("step 2, all as a stranger: only root can become one, and only where namespaces can be made")
        return
    fi
    python=$(interpreter 3.13) || {
        python=$(command -v python3)
        not_run+=("anything on Python 3.13: there is none here, so step 2 is run on $("$python" -V)")
    }
    for line in "$demo_command" "$test_command"; do
        [[ $line != *$'\n'* && $line == *' && '* ]] || { failed+=("2. cannot tell installation and run apart in: $line"); return; }
    done
    mkdir "$scratch/stranger" && git clone --quiet . "$scratch/stranger/clone"
    mkdir "$scratch/tools" && bare_path "$scratch/tools" "$python"
    chown -R nobody: "$scratch/stranger"
    as_stranger() { own_tmp "$ci/stranger" "$1" "$scratch/stranger" "$scratch/tools" "$2"; }
    as_stranger_in_two() { as_stranger online "${1% && *}" && as_stranger offline "${1##* && }"; }
    step "2. README's demo, as a stranger, $("$python" -V)" as_stranger_in_two "$demo_command"
    tests "2. README's tests, as a stranger, $("$python" -V)" 8000 as_stranger_in_two "$test_command"
}

# bare_path DIRECTORY PYTHON: links to what every Debian has on PATH, to git, and to this Python.
bare_path() {
    local program
    dpkg-query -Wf '${Package} ${Essential} ${Priority}\n' | awk '$2 == "yes" || $3 == "required" { print $1 } END { print "git" }' |
        xargs dpkg -L 2>/dev/null | grep -xE '(/usr)?/s?bin/[^/]+' | while read -r program; do ln -sf "$program" "$1/"; done
    ln -sf "$2" "$1/python3"
}

# 3. What talks to dependencies, on the lowest version of each (Celery 5.6.3 and kombu 5.6.0 among them), and what talks to
# kombu on Celery 5.6 as pip resolves it, which is with the newest kombu. Celery 5.7 takes no older kombu than that.
# Not the canvases: 5.6 needs minutes to build the large ones. Of the former not the long ones, which are half of all that it would
# take, and whose faults the newest versions meet in step 1; of the latter all. Four processes, as these tests mostly wait.
lowest_steps() {
    local python
    older_python
    lowest() {
        "$python" tests/support/lowest.py >"$scratch/lowest.txt" && "$python" -m venv "$scratch/lowest.venv" &&
            "$scratch/lowest.venv/bin/pip" install -q -e '.[test]' -c "$scratch/lowest.txt" &&
            own_tmp "$scratch/lowest.venv/bin/python" -m pytest -q -n 4 --dist worksteal -m "not long" tests/transport tests/contracts tests/integration \
                tests/conformance tests/store tests/http tests/cli tests/client tests/test_docs.py
    }
    tests "3. tests on the lowest dependencies, $("$python" -V)" 2600 lowest
}

resolved_steps() {
    local python
    older_python
    resolved() {
        "$python" -m venv "$scratch/resolved.venv" &&
            "$scratch/resolved.venv/bin/pip" install -q -e '.[test]' 'celery==5.6.*' &&
            own_tmp "$scratch/resolved.venv/bin/python" -m pytest -q -n 4 --dist worksteal tests/transport tests/contracts
    }
    tests "3. tests on Celery 5.6 as pip resolves it, $("$python" -V)" 630 resolved
}

# older_python: set python for step 3.
older_python() {
    python=$(interpreter 3.12) || {
        python=$(command -v python3)
        not_run+=("anything on Python 3.12: there is none here, so a part of step 3 is run on $("$python" -V)")
    }
}

# 4. The life of a service on a bare Debian with systemd as PID 1. The tools that make and boot one are installed: they run as
# root, and have no server among them.
host_steps() {
    own_venv
    on_a_host() { DYRYGENTD_TEST_HOST=yes own_tmp .venv/bin/python -m pytest -q -p no:cacheprovider tests/host; }
    if ! ((has_namespaces)); then
        not_run+=("step 4, a bare host: only root can make and boot one, and only where namespaces can be made")
        return
    fi
    if ! { command -v debootstrap && command -v systemd-nspawn; } >/dev/null; then
        { apt-get install -qq -y --no-install-recommends debootstrap systemd-container ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends debootstrap systemd-container; }; } >/dev/null 2>&1 ||
            { not_run+=("step 4, a bare host: debootstrap and systemd-nspawn are not here, and could not be installed"); return; }
    fi
    tests "4. a service's life on a bare host, and that of two hosts" 13 on_a_host
}

# 6. What grows with the time one gives it: faults of real processes, 2,000 simulated seeds, 1,500 random canvases. The largest
# shapes would take five minutes more, and are told as not run.
length_steps() {
    own_venv
    at_length() {
        DYRYGENTD_TEST_FULL=1 DYRYGENTD_TEST_SEEDS=2000 DYRYGENTD_TEST_CONFORMANCE_COUNT=1500 DYRYGENTD_TEST_CONFORMANCE_ODD_MAX=0.01 \
            own_tmp .venv/bin/python -m pytest -q -n 3 --dist worksteal --long tests/simulation tests/faults tests/conformance/test_random.py
    }
    tests "6. at length: faults, seeds, random canvases, $("$python" -V)" 40 at_length
}

# 6. The database on every version of PostgreSQL that we support, besides the one that all other tests use: the oldest and the newest
# with all that is about the store, those between with its contract. npm has servers of all of them.
versions_steps() {
    local major programs place=$scratch/postgres line
    local -A fetched
    if ! command -v npm >/dev/null; then
        not_run+=("the database on PostgreSQL 13, 14, 16, 17 and 18: no npm on PATH, by which they are fetched")
        return
    fi
    own_venv
    mkdir "$place"
    while read -r major programs; do fetched[$major]=$programs; done < <(.venv/bin/python -m tests.support.postgres_versions "$place" 2>"$place.said")
    while read -r line; do not_run+=("$line"); done < <(grep '^PostgreSQL' "$place.said")
    on_version() {
        DYRYGENTD_TEST_POSTGRES=$1 own_tmp .venv/bin/python -m pytest -q -n 3 --dist worksteal \
            tests/contracts/test_store.py "${@:2}" -k postgres
    }
    for major in "${!fetched[@]}"; do
        case $major in
            13 | 18) tests "6. the database on PostgreSQL $major" 90 on_version "${fetched[$major]}" tests/store/postgres ;;
            *) tests "6. the database on PostgreSQL $major" 42 on_version "${fetched[$major]}" ;;
        esac
    done
}

# 5. The core by its own tests: which of its lines and branches they reach.
coverage_steps() {
    own_venv
    measured() { own_tmp .venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --dist worksteal tests/core --cov --long; }
    tests "5. the core, measured by its own tests" 2900 measured
}

tell() {
    local line
    say "time and CPU time (min:s) of each step"
    printf '%s\n' "${done_steps[@]}" >&2
    for line in "${not_run[@]}"; do say "NOT RUN: $line"; done
    for line in "${flickered[@]}"; do say "FLICKERED, failed and then passed: $line"; done
    if ((${#failed[@]})); then
        for line in "${failed[@]}"; do say "FAILED: $line"; done
        exit 1
    fi
    say "all passed"
}
