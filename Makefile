# SPDX-License-Identifier: Apache-2.0
#
# A thin front for Meson: `make help` lists the targets. Every target installs the Debian packages it needs (tools/deps.sh).

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?= $(shell nproc)
# For `make run`: options of `guise run`. For `make test`: options of tests/linux/run.py.
ARGS ?=

SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
.DEFAULT_GOAL = all
.DELETE_ON_ERROR:

GUEST = guest/out/initrd.img
GUEST_SOURCES = $(filter-out guest/out,$(wildcard guest/*)) tools/make-guest.sh

.PHONY: all
all: $(BUILD)/build.ninja ## build $(BUILD)/guise (the default target)
	ninja -C $(BUILD) -j$(JOBS)

$(BUILD)/build.ninja:
	tools/deps.sh build
	meson setup $(BUILD)

.PHONY: deps
deps: ## install the packages to build, run and test
	tools/deps.sh build guest test

.PHONY: guest
guest: ## make the default guest from Debian packages, afresh
	tools/deps.sh guest
	tools/make-guest.sh

$(GUEST): $(GUEST_SOURCES)
	tools/deps.sh guest
	tools/make-guest.sh

# Only the program: the tests are most of the build.
.PHONY: run
run: $(BUILD)/build.ninja $(GUEST) ## boot the default guest on this terminal (ARGS="--memory 2G ...")
	ninja -C $(BUILD) -j$(JOBS) guise
	$(BUILD)/guise run $(ARGS)

.PHONY: rootdisk
rootdisk: ## make guest/out/debian.img, a whole Debian system (root only)
	tools/deps.sh rootdisk
	tools/make-rootdisk.sh

.PHONY: test
test: all $(GUEST) ## every test: unit, cpu, guest, linux
	tools/deps.sh test
	tools/run-tests.py --build $(BUILD) -- $(ARGS)

.PHONY: test-rootdisk
test-rootdisk: all ## a whole Debian in the guest: systemd, apt, gcc, python, openssl, i386
	tools/deps.sh test rootdisk
	[ -s guest/out/debian.img ] || tools/make-rootdisk.sh
	tests/linux/run.py --guise $(BUILD)/guise --rootdisk guest/out/debian.img $(ARGS)

STRESS_DISK = guest/out/debian-stress.img
.PHONY: stress
stress: all ## stress-ng --verify in a Debian of its own, with 1 and with 4 CPUs (SECONDS_EACH=4)
	tools/deps.sh test rootdisk
	[ -s $(STRESS_DISK) ] || tools/make-rootdisk.sh --packages stress-ng --output $(STRESS_DISK)
	for cpus in 1 4; do tests/linux/run.py --guise $(BUILD)/guise --rootdisk $(STRESS_DISK) --cpus $$cpus \
		--seconds $(or $(SECONDS_EACH),4) --only debian-login,debian-stress-ng,debian-poweroff $(ARGS); done

.PHONY: bulk
bulk: all $(GUEST) ## a GiB through every device that carries data, compared on both sides
	tools/deps.sh test
	tests/linux/run.py --guise $(BUILD)/guise --only 'bulk-*' --bulk 1024 --jobs 1 $(ARGS)

LANGUAGES_DISK = guest/out/debian-languages.img
.PHONY: test-languages
test-languages: all ## java, go, perl and qemu-user in a Debian of their own under the kernel for real machines, with 1 and with 4 CPUs
	tools/deps.sh test rootdisk
	[ -s $(LANGUAGES_DISK) ] || tools/make-rootdisk.sh --kernel amd64 --size 6G --output $(LANGUAGES_DISK) \
		--packages "openjdk-17-jdk-headless golang-go perl qemu-user-static"
	for cpus in 1 4; do tests/linux/run.py --guise $(BUILD)/guise --rootdisk $(LANGUAGES_DISK) --cpus $$cpus \
		--only debian-login,debian-dmesg,debian-jit,debian-java,debian-go,debian-perl,debian-qemu-user,debian-poweroff $(ARGS); done

I386_DISK = guest/out/debian-i386.img
.PHONY: test-others
test-others: all ## other systems: the kernel for real machines, Xen, GNU Mach, memtest86+, 32-bit Debian (root only, for its disk)
	tools/deps.sh guest test rootdisk
	[ -s guest/out/others/xen ] || tools/make-others.sh
	[ -s $(I386_DISK) ] || tools/make-rootdisk.sh --arch i386 --output $(I386_DISK)
	tests/linux/run.py --guise $(BUILD)/guise --only 'others-*' --jobs 1 $(ARGS)

.PHONY: test-kvm
test-kvm: $(BUILD)/build.ninja $(GUEST) ## KVM, in a machine that QEMU emulates: no KVM is needed here, but QEMU
	ninja -C $(BUILD) -j$(JOBS) kvm-programs
	meson test -C $(BUILD) --no-rebuild --setup long --suite kvm --suite kvm-long --num-processes 1 --verbose

.PHONY: soak
soak: all $(GUEST) ## a hundred boots, two at a time (N=100)
	tools/boot-soak.sh $(or $(N),100)

.PHONY: embed
embed: all ## a program starts and stops a thousand machines, two at a time, and has lost nothing (N=1000)
	$(BUILD)/tests/embed/many-vms $(or $(N),1000) $(BUILD)/tests/guest/stack_register.elf $(BUILD)/tests/guest/user_mode.elf

# With whole programs of a Debian disk, which only root can make; a disk that is there serves anyone.
BENCH_DISK = guest/out/debian-bench.img
.PHONY: bench bench-quick
bench: bench-deps ## native, Guise and QEMU TCG in one run: CPU, memory, system, disk, network, whole programs (root, for these); hours
	if [ ! -s $(BENCH_DISK) ] && [ "$$(id -u)" -eq 0 ]; then tools/deps.sh rootdisk && \
		tools/make-rootdisk.sh --packages "x264 sqlite3 redis-server" --output $(BENCH_DISK); fi
	bench/run.py --guise $(BUILD)/guise $(ARGS)
bench-quick: bench-deps ## the same in under three minutes, one round
	bench/run.py --guise $(BUILD)/guise --quick $(ARGS)

.PHONY: bench-deps
bench-deps: all $(GUEST)
	tools/deps.sh bench

# Sanitizer builds, each in a directory of its own. What the translator emits is not instrumented; these runs judge the C code around it.
# The linux tests that count here are those that feed bad inputs and those that boot: they reach every device.
SANITIZED_LINUX = -- --only 'bad-*,boot-*,disk-*,net-*,gdb-*' $(ARGS)
THREADED_LINUX = -- --only 'boot-cpuinfo-smp,boot-smp-*,gdb-*,disk-*,net-*' $(ARGS)

ASAN = ASAN_OPTIONS=allow_user_segv_handler=1:handle_sigill=0:handle_sigfpe=0:detect_stack_use_after_return=0
UBSAN = UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

.PHONY: asan ubsan tsan
asan: ## build-asan: AddressSanitizer and LeakSanitizer, unit, cpu, guest tests and the bad inputs
	$(call sanitize,asan,address,,$(ASAN),$(SANITIZED_LINUX))
ubsan: ## build-ubsan: UndefinedBehaviorSanitizer, the same tests
	$(call sanitize,ubsan,undefined,,$(UBSAN),$(SANITIZED_LINUX))
# ThreadSanitizer takes no notice of fences, and gcc says so at each. Ours order one atomic store before another atomic load, which is no
# matter of data races. Guest memory is exempt (base/guest_memory.c): its races are the guest's. A report makes the machine's status 66.
tsan: ## build-tsan: ThreadSanitizer, unit tests, guests with devices or several CPUs, Linux with several CPUs
	$(call sanitize,tsan,thread,-Dc_args=-Wno-tsan,TSAN_OPTIONS=halt_on_error=1:handle_segv=0,$(THREADED_LINUX))

# What the sanitizers do not instrument: translated code, each of whose accesses is compared here with where guest RAM lies (engine/bt/bounds.c).
.PHONY: checked
checked: ## build-checked: no access of a guest leaves its RAM; unit, cpu, guest tests, Linux, CHAOS_SECONDS (120) of chaos
	$(call sanitize,checked,none,-Dbounds_checks=true,,$(SANITIZED_LINUX))
	tests/guest/chaos.py --guise build-checked/guise --engine bt,direct,interp --jobs $(JOBS) --seed $(or $(SEED),1) \
		--seconds $(or $(CHAOS_SECONDS),120) build-checked/tests/guest/chaos.elf

define sanitize
	tools/deps.sh build guest test
	$(MAKE) --no-print-directory $(GUEST)
	[ -e build-$(1)/build.ninja ] || meson setup build-$(1) -Db_sanitize=$(2) -Db_lundef=false -Dbuildtype=debugoptimized $(3)
	ninja -C build-$(1) -j$(JOBS)
	$(4) tools/run-tests.py --build build-$(1) --slow 10 $(5)
endef

.PHONY: cov
# The status is that of the tests; what they reached is shown in any case.
cov: ## build-cov: line and branch coverage of unit, cpu, guest and linux tests, build-cov/coverage.txt
	tools/deps.sh build guest test dev
	$(MAKE) --no-print-directory $(GUEST)
	[ -e build-cov/build.ninja ] || meson setup build-cov -Db_coverage=true -Dc_args=-fprofile-update=atomic
	ninja -C build-cov -j$(JOBS)
	find build-cov -name '*.gcda' -delete
	status=0; tools/run-tests.py --build build-cov --slow 4 -- $(ARGS) || status=$$?; \
	gcovr --root . --filter src/ --object-directory build-cov --txt build-cov/coverage.txt --print-summary; \
	echo "per file: build-cov/coverage.txt"; exit $$status

.PHONY: fuzz
fuzz: ## build-fuzz: libFuzzer targets of tests/fuzz, FUZZ_SECONDS each (60)
	tools/deps.sh build dev
	[ -e build-fuzz/build.ninja ] || CC=clang meson setup build-fuzz -Db_sanitize=address,undefined -Db_lundef=false -Dfuzz=true -Dc_args=-fsanitize=fuzzer-no-link
	ninja -C build-fuzz -j$(JOBS) fuzz-targets
	tools/run-fuzz.sh build-fuzz $(or $(FUZZ_SECONDS),60)

.PHONY: chaos
chaos: ## build-chaos: random code in a guest's every ring, VMM under ASan and UBSan, for CHAOS_SECONDS (600) from SEED (1)
	tools/deps.sh build test
	[ -e build-chaos/build.ninja ] || meson setup build-chaos -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized
	ninja -C build-chaos -j$(JOBS)
	$(ASAN) $(UBSAN) tests/guest/chaos.py --guise build-chaos/guise --engine bt,direct,interp --jobs $(JOBS) --seed $(or $(SEED),1) \
		--seconds $(or $(CHAOS_SECONDS),600) build-chaos/tests/guest/chaos.elf

.PHONY: cpu-fuzz
# The interpreter and the translator against the real CPU; ARGS="--bits 32", "--ring 0", "--repeat 2", "--engine direct" ... for other kinds of cases.
cpu-fuzz: $(BUILD)/build.ninja ## random instruction sequences on the real CPU and the engines (CASES=1000000 SEED=1 ARGS=...)
	ninja -C $(BUILD) -j$(JOBS) tests/cpu/cpu-fuzz tests/cpu/cpu-oracle
	$(BUILD)/tests/cpu/cpu-fuzz --engine all --jobs $(JOBS) --cases $(or $(CASES),1000000) --seed $(or $(SEED),1) \
		--coverage --report $(BUILD)/cpu-coverage.txt $(ARGS)

C_FILES = git ls-files -z '*.c' '*.h'
SHELL_FILES = tools/*.sh bench/*.sh docs/completion/guise.bash .ci/run guest/init guest/rc guest/session guest/end guest/udhcpc guest/power-button

.PHONY: format format-check
format: ## clang-format over every C file
	tools/deps.sh dev
	$(C_FILES) | xargs -0 clang-format -i
format-check: ## what `make format` would change, changing nothing
	tools/deps.sh dev
	$(C_FILES) | xargs -0 clang-format --dry-run --Werror
	@echo "format-check: nothing to change"

# clang-tidy asks the compile commands of the build, which must have generated its headers. One file a process: version 14 mixes them up.
.PHONY: lint
lint: format-check all ## format-check, clang-tidy, shellcheck and mandoc, changing nothing
	git ls-files -z 'src/*.c' | xargs -0 -n 1 -P $(JOBS) clang-tidy --quiet -p $(BUILD) 2> >(grep -v ' warnings\? generated\.$$' >&2)
	shellcheck $(SHELL_FILES)
	mandoc -T lint -W warning docs/guise.1
	git ls-files -z '*.py' | PYTHONPYCACHEPREFIX=$(BUILD)/pycache xargs -0 python3 -m py_compile
	@echo "lint: nothing found"

# Debian's zsh looks for what packages bring in a directory of its own.
ZSH_DIR = $(PREFIX)/share/zsh/$(if $(and $(filter /usr,$(PREFIX)),$(wildcard /etc/debian_version)),vendor-completions,site-functions)

.PHONY: install
install: all $(GUEST) ## into DESTDIR/PREFIX: the binary, man page, completions and the default guest
	DESTDIR="$(DESTDIR)" meson configure $(BUILD) -Dprefix=$(PREFIX) >/dev/null
	DESTDIR="$(DESTDIR)" meson install -C $(BUILD) --quiet
	install -D -m 644 docs/guise.1 "$(DESTDIR)$(PREFIX)/share/man/man1/guise.1"
	install -D -m 644 docs/completion/guise.bash "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/guise"
	install -D -m 644 docs/completion/_guise "$(DESTDIR)$(ZSH_DIR)/_guise"
	install -D -m 644 docs/completion/guise.fish "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/guise.fish"
	install -D -m 644 guest/out/vmlinuz "$(DESTDIR)$(PREFIX)/share/guise/guest/vmlinuz"
	install -D -m 644 guest/out/initrd.img "$(DESTDIR)$(PREFIX)/share/guise/guest/initrd.img"
	@echo "installed into $(DESTDIR)$(PREFIX)"

.PHONY: clean
clean: ## remove every build directory and the guest (downloaded packages stay)
	rm -rf build build-asan build-ubsan build-tsan build-checked build-chaos build-cov build-fuzz
	rm -f guest/out/vmlinuz guest/out/initrd.img guest/out/release
	rm -rf guest/out/kvm

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST)) | sed 's/$$(BUILD)/$(BUILD)/'
