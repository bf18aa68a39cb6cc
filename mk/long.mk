# make test-long: what takes minutes (dozens of pauses, clock steps, a failure of each call).  Runs every
# executable file of tests/long/ as `FILE BUILD`.  LONG="pauses clock_steps" picks some.
LONG_BINS := $(patsubst %.c,$(BUILD)/%,$(filter-out tests/long/preload_%,$(wildcard tests/long/*.c)))
LONG_PRELOADS := $(patsubst %.c,$(BUILD)/%.so,$(wildcard tests/long/preload_*.c))
$(LONG_BINS): %: %.o $(BUILD)/tests/harness.o $(filter %.a,$(TEST_LIBS_system))
	$(CC) $(CFLAGS) -o $@ $(filter %.o,$^) $(TEST_LIBS_system) -lcheck -lsubunit -lrt -lm -lpthread
$(BUILD)/tests/long/%.so: tests/long/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 $(filter-out -Wpedantic -Werror,$(WARN)) -O2 -g -D_GNU_SOURCE -fPIC -shared -o $@ $< -ldl -lpthread

.PHONY: test-long long-bins deps-long
long-bins: $(LONG_BINS) $(LONG_PRELOADS)
deps-long:
ifneq ($(DEPS),0)
	@tools/deps.sh long
endif
test-long: deps-long ## the tests that take minutes: pauses, clock steps, faults (LONG=NAME picks one)
	@$(MAKE) --no-print-directory -j$(shell nproc) test-bins long-bins
	@tools/run_long.sh $(BUILD) $(LONG)
