/* registry/core/place.h - whether the registry is still the file that was opened, and keeps what
 * it is told.
 *
 * A program that goes on writing to a file that somebody removed or replaced acknowledges what
 * nobody will find again; one that goes on after a failed sync may have lost pages that it believes
 * are on the disk.  Neither mends itself: from then on nothing is written, every transaction gives
 * the first reason, and the daemon stops (daemon/daemon.c).
 *
 * Thread: the registry's.
 */
#ifndef DS_REGISTRY_CORE_PLACE_H
#define DS_REGISTRY_CORE_PLACE_H

#include "registry/core/handle.h"

/* 0, or why nothing is written any more: DS_EINTEGRITY (registry.db, its -wal or -shm, or the lock
 * is another file or none; a damaged page), DS_EIO (could not be written, synced or read). */
int ds_registry_broken(const ds_registry *r, ds_error *err);

/* The same, after looking at the files: some microseconds.  Done after each commit, before it is
 * acknowledged; call it every second as well. */
int ds_registry_in_place(ds_registry *r, ds_error *err);

/* Internal to registry/. */
void place_remember(ds_registry *r);   /* once, when the files are there */
void place_note_error(ds_registry *r); /* the connection's last error, if it is of that kind */

#endif
