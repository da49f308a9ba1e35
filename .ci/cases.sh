#!/usr/bin/env bash
# Runs every script of a folder of cases in the environment that is active; each exits 0 if what it tries is right.
#   bash .ci/cases.sh FOLDER [SECONDS]      each may take so long (400); ends with a line of counts
folder="$(cd "$1" && pwd)"
limit="${2:-400}"
right=0
wrong=0
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
while read -r case; do
    if (cd "$work" && OMP_NUM_THREADS=1 timeout "$limit" python "$case") >"$work/said" 2>&1; then
        right=$((right + 1))
    else
        wrong=$((wrong + 1))
        echo "== ${case#"$folder"/}"
        tail -n 3 "$work/said"
    fi
done < <(find "$folder" -name '[0-9]*.py' | sort)
echo "cases: $right right, $wrong wrong"
[ "$wrong" = 0 ]
