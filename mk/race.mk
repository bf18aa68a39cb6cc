# The race checker of the CUDA kernels in emulation (tests/emu/race.cc).  The compiler calls it at every
# load and store of kernels/cuda/; -fsanitize=thread is not linked.  Always in a build folder of its own:
#   make RACE=1 BUILD=build/race race-programs
ifdef RACE
EMU_FLAGS += -DDS_EMU_RACE
$(BUILD)/emu/kernels/cuda/%.cu.o: EMU_FLAGS += -O1 -fsanitize=thread --param tsan-instrument-func-entry-exit=0
endif
RACE_TESTS := $(addprefix test_kernels_,tokens affiner rest autoencoder fused linear)
.PHONY: race-programs race-check
race-programs: $(addprefix $(BUILD)/tests/,$(RACE_TESTS)) $(EMU_LIB)

race-check: deps-test ## look for races in the CUDA kernels, in emulation (3 minutes)
	@$(MAKE) --no-print-directory -j$(shell nproc) RACE=1 CONFIG=release BUILD=build/race race-programs
	@tools/race_check.sh build/race $(RACE_TESTS)
