/* engine/files/safetensors_internal.h - what the reader and the writer share. */
#ifndef DS_ENGINE_FILES_SAFETENSORS_INTERNAL_H
#define DS_ENGINE_FILES_SAFETENSORS_INTERNAL_H

#include "engine/files/safetensors.h"

/* The member of the header that is no tensor. */
#define DS_ST_META_KEY "__metadata__"

/* Names and types with such bytes are refused when they are read and when they are written. */
int ds_st_has_control_byte(const char *s);

#endif
