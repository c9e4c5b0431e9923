#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs every libFuzzer target of a build for some seconds each. The corpus stays in BUILD/corpus, what fails in BUILD/findings.
#   tools/run-fuzz.sh BUILD [SECONDS]
set -euo pipefail

build=${1:?usage: tools/run-fuzz.sh BUILD [SECONDS]}
seconds=${2:-60}
failed=0

for target in "$build"/tests/fuzz/fuzz_*; do
	if [ ! -f "$target" ] || [ ! -x "$target" ]; then continue; fi
	name=$(basename "$target")
	mkdir -p "$build/corpus/$name" "$build/findings"
	# A real kernel's head, so that the first input is not refused by its magic.
	if [ "$name" = fuzz_boot ] && [ -s guest/out/vmlinuz ]; then
		head -c 65536 guest/out/vmlinuz >"$build/corpus/$name/bzimage"
	fi
	echo "$name: $seconds s"
	if ! "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -max_len=131072 -print_final_stats=1 \
		-artifact_prefix="$build/findings/$name-" "$build/corpus/$name" 2>"$build/findings/$name.log"; then
		failed=$((failed + 1))
		tail -n 40 "$build/findings/$name.log"
	else
		grep -E 'number_of_executed_units|Done' "$build/findings/$name.log" || true
	fi
done
echo "fuzz: $failed targets failed"
[ $failed -eq 0 ]
