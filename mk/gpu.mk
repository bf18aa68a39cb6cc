# The programs of `make gpu-check` (tools/gpu_check.sh), which need no library but those of CUDA:
# libcheck is tests/gpu/check.c, jansson only a header, golden tensors are read by tests/gpu/flat_st.c,
# and other file formats are missing (tests/gpu/no_formats.c).  Always in a build folder of their own:
#   make GPU_CHECK=1 BUILD=build/gpu gpu-programs
ifdef GPU_CHECK
CPPFLAGS := -Itests/gpu $(CPPFLAGS)
PKGFLAGS :=
endif
GPU_ENGINE := $(patsubst engine/%.c,%,$(wildcard engine/model/*.c)) metrics/inception metrics/resize_float \
    metrics/resize_taps $(addprefix diffusion/,diffusion sampler sampler_table train_checkpoint train_guidance train_task trainer)
GPU_O := $(call objs,base/error.c base/mem.c base/rng.c base/log.c base/fs.c base/limits.c contract/methods.c contract/options.c $(GPU_ENGINE:%=engine/%.c) \
    kernels/*.c kernels/*/*.c tests/gpu/flat_st.c tests/gpu/no_formats.c)
GPU_TEST_O := $(call objs,tests/harness.c tests/gpu/check.c tests/fixtures/kernels_ladder.c) $(BUILD)/tests/mirror.o
GPU_TESTS := $(patsubst %.c,$(BUILD)/bin/%,$(notdir $(filter-out %_reference.c %_gradients.c,$(wildcard tests/kernels/test_kernels_*.c))) \
    test_engine_golden.c test_engine_cuda.c test_engine_modulations.c)
GPU_PROGRAMS := $(GPU_TESTS) $(BUILD)/bin/gpu_steps $(BUILD)/bin/bench_gpu
.PHONY: gpu-programs gpu-check
gpu-programs: $(GPU_PROGRAMS)
define GPU_TEST_RULE
$(BUILD)/bin/$(1): $(BUILD)/tests/$(call test_group,$(1))/$(1).o $(GPU_TEST_O) $(GPU_O)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) -o $$@ $$^ -lm -lpthread -ldl
endef
$(foreach t,$(notdir $(GPU_TESTS)),$(eval $(call GPU_TEST_RULE,$(t))))
$(BUILD)/bin/gpu_steps: $(BUILD)/tests/gpu/gpu_steps.o $(GPU_O)
$(BUILD)/bin/bench_gpu: $(BUILD)/bench/gpu/bench_gpu.o $(BUILD)/bench/gpu/profile.o $(GPU_O)
$(BUILD)/bin/gpu_steps $(BUILD)/bin/bench_gpu:
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ -lm -lpthread -ldl

# The tests that gpu-check builds, read with its stand-in for libcheck: `make test` sees when they part.
.PHONY: gpu-syntax
gpu-syntax:
	@$(CC) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -fsyntax-only -Itests/gpu tests/harness.c tests/gpu/*.c tests/fixtures/kernels_ladder.c \
	    $(wildcard $(patsubst %,tests/*/%.c,$(notdir $(GPU_TESTS))))

gpu-check: ## on a machine with an NVIDIA GPU: build, check and time all that only it can show (10 minutes)
	@tools/gpu_check.sh
