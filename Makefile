# Diffscaler.  `make help` lists the targets.  Objects live in build/<config>, so switching never needs clean.
SHELL := /bin/bash
CC ?= gcc
CONFIG ?= release
BUILD ?= build/$(CONFIG)
DEPS ?= 1
NVCC ?= nvcc
NVCC_PATH := $(shell command -v $(NVCC) 2>/dev/null)
CUDA ?= $(if $(NVCC_PATH),$(if $(filter asan,$(CONFIG)),0,1),0)
VERSION := 0.1.0
Q := $(if $(V),,@)# V=1 shows the commands

PKGS_BASE := libcrypto libzstd jansson
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wconversion -Wsign-conversion -Werror
CFLAGS_release := -O2 -g
CFLAGS_asan := -O1 -g1 -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined
CFLAGS := $(CFLAGS_$(CONFIG)) $(EXTRA)
CPPFLAGS := -D_GNU_SOURCE -DDS_VERSION='"$(VERSION)"' -I. -I$(BUILD)
PKGFLAGS := $(shell pkg-config --cflags $(PKGS_BASE) 2>/dev/null)
ALL_CFLAGS = -std=c17 $(WARN) $(CFLAGS) -ffp-contract=off -fno-math-errno -pthread $(CPPFLAGS) $(PKGFLAGS) -MMD -MP

objs = $(patsubst %.c,$(BUILD)/%.o,$(wildcard $(1)))
BASE_O := $(call objs,base/*.c contract/*.c) # every program has both
KERNELS_O := $(call objs,kernels/*.c kernels/*/*.c)
ENGINE_O := $(call objs,engine/*/*.c)
WORKER_O := $(filter-out $(BUILD)/worker/commands/main.o,$(call objs,worker/*/*.c))
REGISTRY_O := $(call objs,registry/*.c registry/*/*.c) $(BUILD)/migrations.o
DAEMON_O := $(filter-out $(BUILD)/daemon/main.o,$(call objs,daemon/*.c daemon/*/*.c))
CLI_O := $(filter-out $(BUILD)/cli/main.o,$(call objs,cli/*.c cli/*/*.c))

LIB_BASE := $(BUILD)/libbase.a
LIB_KERNELS := $(BUILD)/libkernels.a
LIB_ENGINE := $(BUILD)/libengine.a
LIB_WORKER := $(BUILD)/libworker.a
LIB_REGISTRY := $(BUILD)/libregistry.a
LIB_DAEMON := $(BUILD)/libdaemon.a
LIB_CLI := $(BUILD)/libcli.a

L_BASE := -lcrypto -lzstd -ljansson -lm -lpthread -ldl
L_ENGINE := -lzip -llapacke -lopenblas
L_WORKER := -ljpeg -lpng -lwebp -lwebpdemux -lz -lseccomp
L_REGISTRY := -lsqlite3
L_DAEMON := -luv -lmicrohttpd
L_CLI := -lcurl -lpng -lz

# The CUDA device: one shared object, loaded when a GPU is asked for (kernels/cuda/load.c).
CUDA_LIB := $(if $(filter 1,$(CUDA)),$(BUILD)/libdiffscaler-cuda.so)
BINS := $(BUILD)/diffscalerd $(BUILD)/diffscaler-worker $(BUILD)/dsctl $(CUDA_LIB)

.PHONY: all cuda-note
all: cuda-note $(BINS) ## build diffscalerd, diffscaler-worker and dsctl

$(BUILD)/%.o: %.c
	@$(if $(V),,echo "  CC $<";) mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<
# Sanitized kernels at -O1 take 80 times as long as plain ones, and every test of the worker runs them.
$(BUILD)/kernels/cpu/%.o: CFLAGS += $(if $(filter asan,$(CONFIG)),-O2)

# The migrations as one C table (migrations/embed.sh); long literals, hence the one warning off.
$(BUILD)/migrations.c: migrations/embed.sh $(wildcard migrations/*.sql)
	@mkdir -p $(@D)
	sh migrations/embed.sh migrations/*.sql > $@.tmp && mv $@.tmp $@
$(BUILD)/migrations.o: $(BUILD)/migrations.c
	$(CC) $(ALL_CFLAGS) -Wno-overlength-strings -c -o $@ $<

$(LIB_BASE): $(BASE_O)
$(LIB_KERNELS): $(KERNELS_O)
$(LIB_ENGINE): $(ENGINE_O)
$(LIB_WORKER): $(WORKER_O)
$(LIB_REGISTRY): $(REGISTRY_O)
$(LIB_DAEMON): $(DAEMON_O)
$(LIB_CLI): $(CLI_O)
$(BUILD)/lib%.a:
	@rm -f $@
	$(Q)ar rcs $@ $^

$(BUILD)/diffscalerd: $(BUILD)/daemon/main.o $(LIB_DAEMON) $(LIB_REGISTRY) $(LIB_BASE)
	$(CC) $(CFLAGS) -o $@ $^ $(L_DAEMON) $(L_REGISTRY) $(L_BASE)
$(BUILD)/diffscaler-worker: $(BUILD)/worker/commands/main.o $(LIB_WORKER) $(LIB_ENGINE) $(LIB_KERNELS) $(LIB_BASE)
	$(CC) $(CFLAGS) -o $@ $^ $(L_WORKER) $(L_ENGINE) $(L_BASE)
$(BUILD)/dsctl: $(BUILD)/cli/main.o $(LIB_CLI) $(LIB_BASE)
	$(CC) $(CFLAGS) -o $@ $^ $(L_CLI) $(L_BASE)

# CUDA=0 leaves it out; so does a machine without nvcc, and the sanitized build, which cannot run it.
CUDA_SRC := $(wildcard kernels/cuda/*.cu kernels/cuda/*/*.cu)
CUDA_HOME := $(patsubst %/bin/,%,$(dir $(realpath $(NVCC_PATH))))
CUDNN_HOME ?=# where it is not beside CUDA, nor the system's
CUDNN_DIRS := $(CUDNN_HOME:%=%/include) $(CUDA_HOME)/include /usr/include /usr/include/x86_64-linux-gnu
CUDNN := $(if $(wildcard $(addsuffix /cudnn.h,$(CUDNN_DIRS))),1,0)
CUDA_LINK := -L$(CUDA_HOME)/lib64 -Xlinker -rpath -Xlinker $(CUDA_HOME)/lib64 -Xlinker -z -Xlinker defs \
    -lcublas -lcublasLt -lcusolver $(if $(filter 1,$(CUDNN)),$(if $(CUDNN_HOME),-Xlinker $(CUDNN_HOME)/lib/libcudnn.so.9 -Xlinker -rpath -Xlinker $(CUDNN_HOME)/lib,-lcudnn)) -ldl -lpthread -lm
cuda-note:
ifeq ($(CUDA),0)
	@echo "  without the CUDA device: $(if $(NVCC_PATH),$(if $(filter asan,$(CONFIG)),sanitizers cannot run it,CUDA=0),there is no nvcc on the PATH)"
else ifneq ($(CUDNN),1)
	@echo "  CUDA without cuDNN (no cudnn.h): own kernels do attention and convolutions"
endif
# Machine code for Hopper; PTX of Ampere, from which the driver makes code for all others.
NVCC_FLAGS := -std=c++17 -O3 -lineinfo -gencode arch=compute_90,code=sm_90 -gencode arch=compute_80,code=compute_80 \
    -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wno-unknown-pragmas --expt-relaxed-constexpr -Wno-deprecated-gpu-targets \
    $(if $(filter 1,$(CUDNN)),$(CUDNN_HOME:%=-I%/include),-DDS_NO_CUDNN)
$(BUILD)/cuda/%.cu.o: %.cu
	@$(if $(V),,echo "  NVCC $<";) mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCC_FLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<
# Rounded one by one: joined ops give the bits of two, normal numbers are those of base/rng.c.
$(BUILD)/cuda/kernels/cuda/norm.cu.o $(BUILD)/cuda/kernels/cuda/gate.cu.o $(BUILD)/cuda/kernels/cuda/diffusion.cu.o: \
    NVCC_FLAGS += -fmad=false
$(BUILD)/cuda/%.c.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c17 $(WARN) $(EXTRA) -O2 -fPIC -fvisibility=hidden -ffp-contract=off $(CPPFLAGS) -MMD -MP -c -o $@ $<
CUDA_HOST_C := base/error.c base/mem.c
CUDA_O := $(patsubst %,$(BUILD)/cuda/%.o,$(CUDA_SRC) $(CUDA_HOST_C))
$(BUILD)/libdiffscaler-cuda.so: $(CUDA_O)
	@$(if $(V),,echo "  NVCC $@")
	$(Q)$(NVCC) -shared -Wno-deprecated-gpu-targets -o $@ $^ $(CUDA_LINK)
# cuDNN reads our graphs without a GPU (run by tests/system/test_system_cuda.c).
CUDA_GRAPHS := $(if $(filter 11,$(CUDA)$(CUDNN)),$(BUILD)/tests/emu/graphs)
$(BUILD)/tests/emu/graphs: $(BUILD)/cuda/tests/emu/graphs.cu.o $(patsubst %,$(BUILD)/cuda/%.o,$(CUDA_HOST_C))
	@mkdir -p $(@D)
	$(Q)$(NVCC) -Wno-deprecated-gpu-targets -o $@ $^ $(CUDA_LINK)
$(BUILD)/tests/test_system_cuda: | $(CUDA_GRAPHS)
# The same kernels and ops on the host, over the emulation of CUDA (tests/emu/emu.h), for the tests.
EMU_LIB := $(BUILD)/tests/emu/libdiffscaler-cuda.so
EMU_SRC := $(filter-out kernels/cuda/lib/%.cu,$(CUDA_SRC)) $(wildcard tests/emu/*.cc)
EMU_O := $(patsubst %,$(BUILD)/emu/%.o,$(EMU_SRC) $(CUDA_HOST_C))
EMU_FLAGS = $(CFLAGS) $(if $(filter asan,$(CONFIG)),-O1 -g1,-O2) -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -DDS_CUDA_EMU -Itests/emu $(CPPFLAGS) -MMD -MP
$(BUILD)/emu/%.cu.o: %.cu
	@$(if $(V),,echo "  C++ $< (emulated)";) mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 -x c++ -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Werror $(EMU_FLAGS) -c -o $@ $<
$(BUILD)/emu/%.cc.o: %.cc
	@$(if $(V),,echo "  C++ $<";) mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Werror $(EMU_FLAGS) -c -o $@ $<
$(BUILD)/emu/%.c.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c17 $(WARN) $(EMU_FLAGS) -c -o $@ $<
$(EMU_LIB): $(EMU_O)
	@$(if $(V),,echo "  LINK $@";) mkdir -p $(@D)
	$(Q)$(CXX) $(CFLAGS) -shared -o $@ $^ -lm -lpthread

# gold takes a third of ld's time, and there are 320 test programs; the programs themselves are ld's.
TEST_LD := $(if $(shell command -v ld.gold),-fuse-ld=gold)
# Test programs: tests/*/test_<group>_*.c links the libraries of its group; one program per file.
# Fixtures too large for a header are objects of their group; what a test does not use is not linked.
FIXTURES_daemon := daemon_rig daemon_fake_worker
FIXTURES_worker := worker_fixture arch/mixer
FIXTURES_engine := arch/mixer
FIXTURES_system := system_rig worker_fixture
FIXTURES_kernels := kernels_ladder
fixtures = $(if $(FIXTURES_$(1)),$(BUILD)/tests/libfixtures-$(1).a)
define FIXTURES_RULE
$(BUILD)/tests/libfixtures-$(1).a: $(FIXTURES_$(1):%=$(BUILD)/tests/fixtures/%.o)
	@rm -f $$@
	$$(Q)ar rcs $$@ $$^
endef
$(foreach g,daemon worker engine system kernels,$(eval $(call FIXTURES_RULE,$(g))))
TEST_LIBS_kernels = $(call fixtures,kernels) $(LIB_KERNELS) $(LIB_BASE) $(L_ENGINE) $(L_BASE)
TEST_LIBS_engine = $(call fixtures,engine) $(LIB_ENGINE) $(LIB_KERNELS) $(LIB_BASE) $(L_ENGINE) $(L_BASE)
TEST_LIBS_worker = $(call fixtures,worker) $(LIB_WORKER) $(LIB_ENGINE) $(LIB_KERNELS) $(LIB_BASE) $(L_WORKER) $(L_ENGINE) $(L_BASE)
TEST_LIBS_registry = $(LIB_REGISTRY) $(LIB_BASE) $(L_REGISTRY) $(L_BASE)
TEST_LIBS_daemon = $(call fixtures,daemon) $(LIB_DAEMON) $(LIB_REGISTRY) $(LIB_CLI) $(LIB_BASE) $(L_DAEMON) $(L_REGISTRY) $(L_CLI) $(L_BASE)
TEST_LIBS_cli = $(LIB_CLI) $(LIB_BASE) $(L_CLI) $(L_BASE)
TEST_LIBS_base = $(LIB_BASE) $(L_BASE)
TEST_LIBS_system = $(call fixtures,system) $(LIB_WORKER) $(LIB_ENGINE) $(LIB_KERNELS) $(LIB_REGISTRY) $(LIB_BASE) $(L_WORKER) $(L_ENGINE) $(L_REGISTRY) $(L_BASE)
TEST_SRC := $(wildcard tests/*/test_*.c)
TEST_BINS := $(patsubst %.c,$(BUILD)/tests/%,$(notdir $(TEST_SRC)))
test_group = $(word 2,$(subst _, ,$(1)))
define TEST_RULE
$(BUILD)/tests/$(notdir $(1)): $(BUILD)/$(1).o $(BUILD)/tests/harness.o $$(filter %.a,$$(TEST_LIBS_$(call test_group,$(notdir $(1)))))
	$$(CC) $$(CFLAGS) $$(TEST_LD) -o $$@ $$(filter %.o,$$^) $$(TEST_LIBS_$(call test_group,$(notdir $(1)))) -lcheck -lsubunit -lrt -lm -lpthread
endef
$(foreach t,$(TEST_SRC:%.c=%),$(eval $(call TEST_RULE,$(t))))
# These start the programs (found through DS_BUILD); order-only, so a new program links no test anew.
$(filter $(BUILD)/tests/test_system_%,$(TEST_BINS)): | $(BINS)

# These open the emulated CUDA device as well, which has memory of its own (tests/mirror.h).
$(filter $(BUILD)/tests/test_kernels_%,$(TEST_BINS)): $(BUILD)/tests/mirror.o | $(EMU_LIB)
$(BUILD)/tests/test_engine_cuda $(BUILD)/tests/test_engine_golden $(BUILD)/tests/test_engine_fd: | $(EMU_LIB)
$(BUILD)/%.o: %.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 -fno-exceptions -fno-rtti -Wall -Wextra -Wshadow -Werror $(CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

include mk/gpu.mk
include mk/race.mk
include mk/long.mk

# Whole steps beside PyTorch, then the kernels.
$(BUILD)/bench/bench_step: $(BUILD)/bench/bench_step.o $(LIB_ENGINE) $(LIB_KERNELS) $(LIB_BASE)
	$(CC) $(CFLAGS) -o $@ $^ $(L_ENGINE) $(L_BASE)
# By hand (see the files): the VAE at full size beside diffusers, a Frechet distance, resizing.
$(addprefix $(BUILD)/bench/,bench_vae bench_fd bench_resize): %: %.o $(LIB_ENGINE) $(LIB_KERNELS) $(LIB_BASE)
	$(CC) $(CFLAGS) -o $@ $^ $(L_ENGINE) $(L_BASE)
$(BUILD)/bench/bench_gate: $(BUILD)/bench/bench_gate.o $(LIB_WORKER) $(LIB_ENGINE) $(LIB_KERNELS) $(LIB_BASE)
	$(CC) $(CFLAGS) -o $@ $^ $(L_WORKER) $(L_ENGINE) $(L_BASE)
.PHONY: bench
bench: deps ## speed of training and sampling steps beside PyTorch's best; BENCH_ARGS="--models tiny" (see the script)
	@$(MAKE) --no-print-directory -j$(shell nproc) $(BUILD)/bench/bench_step $(BUILD)/bench/bench_kernels
	@PARITY_PYTHON=$(PARITY_PYTHON) python3 bench/beside_pytorch.py $(BUILD) $(BENCH_ARGS)

# Benchmarks: BENCH_ARGS="bf16 2 tiny 64 adapter" (see bench/bench_kernels.c)
$(BUILD)/bench/bench_kernels: $(BUILD)/bench/bench_kernels.o $(LIB_KERNELS) $(LIB_BASE)
	$(CC) $(CFLAGS) -o $@ $^ $(L_BASE)
.PHONY: bench-kernels
bench-kernels: $(BUILD)/bench/bench_kernels ## rates of the CPU kernels and of a training step
	$< $(BENCH_ARGS)

.PHONY: docs
docs: $(BUILD)/dsctl ## the tables of options and methods in docs/api.md anew
	@tools/docs_tables.sh $(BUILD)/dsctl

.PHONY: demo
demo: deps ## set up, build and train three real image sets with the bundled base (a few minutes)
	@echo "building ..."
	@$(MAKE) --no-print-directory -j$(shell nproc) CONFIG=release all
	@tools/demo.sh build/release

.PHONY: test test-bins deps deps-test tidy
test-bins: cuda-note $(TEST_BINS) $(BINS)

deps: ## install the Debian packages that the build needs (DEPS=0 skips)
ifneq ($(DEPS),0)
	@tools/deps.sh build
endif
deps-test:
ifneq ($(DEPS),0)
	@tools/deps.sh test
endif

# A second make, because pkg-config and the folders are looked at when make starts.
test: deps-test ## set up, build and run all tests, plain and with ASan + UBSan (some 10 minutes on 2 cores)
	@echo "building (release, then address and undefined-behaviour sanitizers) ..."
	@$(MAKE) --no-print-directory -j$(shell nproc) CONFIG=release test-bins
	@$(MAKE) --no-print-directory -j$(shell nproc) CONFIG=asan test-bins
	@$(MAKE) --no-print-directory gpu-syntax
	@tools/tidy.sh
	@tools/run_tests.sh build/release build/asan

tidy: ## check dependencies between folders, sizes, banned calls, format
	@tools/tidy.sh

# Hours; resumable.  MUTATE_ARGS=--check says whether the list still fits (see tools/mutate.py).
.PHONY: mutate
mutate: ## put faults into the programs, one at a time: do the tests notice? MUTATE_ARGS="--module trainer"
	@python3 tools/mutate.py $(MUTATE_ARGS)

PREFIX ?= /usr/local
.PHONY: man install
man: $(BUILD)/dsctl ## man pages into build/<config>/man (needs scdoc)
	@packaging/man/build.sh $(BUILD)/dsctl $(BUILD)/man
install: all ## install under DESTDIR and PREFIX: programs, models, man pages, completions, systemd units
	@packaging/install.sh $(BUILD) '$(DESTDIR)' '$(PREFIX)'

# The Python packages are large (PyTorch); PARITY_PYTHON names a python3 that has them already.
PARITY_PYTHON ?= build/parity-venv/bin/python
.PHONY: parity
parity: deps-test ## compare with PyTorch, diffusers and three FID tools (downloads them into build/parity-venv)
	@test -x $(PARITY_PYTHON) || { python3 -m venv build/parity-venv && \
	    build/parity-venv/bin/pip install -q -r tools/parity/requirements.txt; }
	@$(MAKE) --no-print-directory -j$(shell nproc) $(BUILD)/tests/test_worker_export $(BUILD)/diffscaler-worker
	@tools/parity/run.sh $(abspath $(PARITY_PYTHON)) $(BUILD)

# FUZZ names tests/fuzz/fuzz_FUZZ.c; findings stay in build/fuzz.
FUZZ ?= decode
FUZZ_SECONDS ?= 60
FUZZ_SEEDS_decode := tests/golden/images tests/golden/pixels
FUZZ_SEEDS_pickle := tests/fuzz/seeds/pickle
FUZZ_SEEDS_weights := tests/fuzz/seeds/weights
FUZZ_SEEDS_npz := tests/fuzz/seeds/npz
FUZZ_SEEDS_safetensors := tests/fuzz/seeds/safetensors
FUZZ_SRC_decode := engine/metrics/resize.c engine/metrics/resize_taps.c $(wildcard engine/files/safetensors*.c) $(wildcard worker/decode/decode*.c) \
    worker/decode/files.c worker/images/metadata_csv.c
FUZZ_SRC_safetensors := $(wildcard engine/files/safetensors*.c)
FUZZ_SRC_pickle := engine/files/pickle.c engine/files/pickle_calls.c $(wildcard engine/files/safetensors*.c)
FUZZ_SRC_npz := $(wildcard engine/metrics/npz*.c engine/files/safetensors*.c)
FUZZ_SRC_weights := $(wildcard engine/names/*.c engine/files/*.c) \
    $(wildcard engine/model/*.c) engine/vae/vae.c engine/vae/vae_run.c tests/fuzz/no_device.c
.PHONY: fuzz
fuzz: ## a libFuzzer run: FUZZ=decode|safetensors|pickle|weights|npz FUZZ_SECONDS=60 (needs clang)
	@mkdir -p build/fuzz/$(FUZZ)
	clang -std=c17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined $(CPPFLAGS) -o build/fuzz/fuzz_$(FUZZ) tests/fuzz/fuzz_$(FUZZ).c \
	    $(wildcard base/*.c contract/*.c) $(FUZZ_SRC_$(FUZZ)) -ljpeg -lpng -lwebp -lwebpdemux -lz -lzip $(L_BASE)
	build/fuzz/fuzz_$(FUZZ) -max_total_time=$(FUZZ_SECONDS) -timeout=10 -artifact_prefix=build/fuzz/ build/fuzz/$(FUZZ) \
	    $(FUZZ_SEEDS_$(FUZZ)) $(addprefix -dict=,$(wildcard tests/fuzz/$(FUZZ).dict))

.PHONY: clean help

clean: ## remove build/
	rm -rf build
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
