#!/bin/bash
# tests/long/gc_load.sh BUILD - gc with the least grace all the time, while GC_LOAD (300) adapters are
# published, every file looks two days old (a clock that stepped), and another program takes the
# registry's write lock every now and then: none is lost, no training fails.
. "$(dirname "$0")/common.sh"
export GC_LOAD="${GC_LOAD:-300}" CK_RUN_CASE=gc_while_adapters_are_published
by_test test_daemon_store "$GC_LOAD adapters published while gc ran, 0 lost" "$GC_LOAD"
