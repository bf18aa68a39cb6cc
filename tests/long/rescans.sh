#!/bin/bash
# tests/long/rescans.sh BUILD - GROWTH_SETS (100) datasets, each rescanned GROWTH_RESCANS (2000) times
# without a change: no row of any table, no page of the registry and no memory is left behind.
. "$(dirname "$0")/common.sh"
export GROWTH_SETS="${GROWTH_SETS:-100}" GROWTH_RESCANS="${GROWTH_RESCANS:-2000}"
by_test test_registry_growth 'rescans left 0 rows'
