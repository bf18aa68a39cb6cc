# The programs of `make gpu-check` (tools/gpu_check.sh), which need no library but those of CUDA:
# libcheck is tests/gpu/check.c, jansson only a header, golden tensors are read by tests/gpu/flat_st.c,
# and other file formats are missing (tests/gpu/no_formats.c).  Always in a build folder of their own:
#   make GPU_CHECK=1 BUILD=build/gpu gpu-programs
ifdef GPU_CHECK
CPPFLAGS := -Itests/gpu $(CPPFLAGS)
PKGFLAGS :=
endif
GPU_ENGINE := adapter base_model diffusion dit inception net net_backward net_forward net_table params resize_float resize_taps sampler sampler_table trainer
GPU_O := $(call objs,base/error.c base/mem.c base/rng.c base/log.c base/fs.c $(GPU_ENGINE:%=engine/%.c) \
    kernels/*.c kernels/ref/*.c kernels/cpu/*.c kernels/cuda/*.c tests/gpu/flat_st.c tests/gpu/no_formats.c)
GPU_TEST_O := $(call objs,tests/harness.c tests/gpu/check.c) $(BUILD)/tests/mirror.o
GPU_TESTS := $(patsubst tests/%.c,$(BUILD)/bin/%,$(filter-out %_reference.c %_gradients.c,$(wildcard tests/test_kernels_*.c)) \
    $(wildcard tests/test_engine_golden.c tests/test_engine_cuda.c tests/test_engine_modulations.c))
GPU_PROGRAMS := $(GPU_TESTS) $(BUILD)/bin/gpu_steps $(BUILD)/bin/bench_gpu
.PHONY: gpu-programs gpu-check
gpu-programs: $(GPU_PROGRAMS)
$(GPU_TESTS): $(BUILD)/bin/%: $(BUILD)/tests/%.o $(GPU_TEST_O) $(GPU_O)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ -lm -lpthread -ldl
$(BUILD)/bin/gpu_steps: $(BUILD)/tests/gpu/gpu_steps.o $(GPU_O)
$(BUILD)/bin/bench_gpu: $(BUILD)/bench/gpu/bench_gpu.o $(BUILD)/bench/gpu/profile.o $(GPU_O)
$(BUILD)/bin/gpu_steps $(BUILD)/bin/bench_gpu:
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ -lm -lpthread -ldl

gpu-check: ## on a machine with an NVIDIA GPU: build, check and time all that only it can show (10 minutes)
	@tools/gpu_check.sh
