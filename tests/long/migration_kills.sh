#!/bin/bash
# tests/long/migration_kills.sh BUILD - a registry of version 1 is upgraded, and the process killed at
# every write (each KILL_STEP-th, 1): the next start goes on, and nothing is missing.
. "$(dirname "$0")/common.sh"
export KILL_STEP="${KILL_STEP:-1}"
by_test test_registry_place 'upgrades killed, each went on'
