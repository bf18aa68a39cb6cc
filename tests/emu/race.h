/* tests/emu/race.h - what the emulation tells the race checker (race.cc).
 *
 * Without DS_EMU_RACE every call is empty, so emu.cc and tile.cc say it without conditions.  One
 * thread of the host; nothing is owned, nothing fails but by abort (the alignment).
 */
#ifndef DS_TESTS_EMU_RACE_H
#define DS_TESTS_EMU_RACE_H

#include <stddef.h>

#if defined(DS_EMU_RACE)

constexpr bool ds_race_on = true;

/* The device's memory lies in these bytes, from the first allocation on. */
void ds_race_memory(const void *start, size_t bytes);

/* A launch begins; a block of it, with its shared memory, begins and ends. */
void ds_race_launch();
void ds_race_block(const void *shared, size_t bytes);
void ds_race_block_end();

/* The thread that runs has passed a barrier. */
void ds_race_syncthreads();
void ds_race_syncwarp();

/* It reads or writes n bytes at p; `pc` is a return address in the kernel, for the report. */
void ds_race_access(const void *p, size_t n, bool write, const void *pc);

/* Aborts with `what` unless p is a multiple of 16. */
void ds_race_aligned16(const void *p, const char *what);

#else

constexpr bool ds_race_on = false;

static inline void ds_race_memory(const void *, size_t) {}
static inline void ds_race_launch() {}
static inline void ds_race_block(const void *, size_t) {}
static inline void ds_race_block_end() {}
static inline void ds_race_syncthreads() {}
static inline void ds_race_syncwarp() {}
static inline void ds_race_access(const void *, size_t, bool, const void *) {}
static inline void ds_race_aligned16(const void *, const char *) {}

#endif

#endif
