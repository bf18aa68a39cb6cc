/* tests/gpu/jansson.h - what the engine's headers and file formats name of jansson, for machines
 * without it.  Only `make gpu-check` compiles against it; tests/gpu/no_formats.c ends the process
 * where one of these is called. */
#ifndef DS_TESTS_GPU_JANSSON_H
#define DS_TESTS_GPU_JANSSON_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct json_t json_t;
typedef long long json_int_t;

json_t *json_object(void);
json_t *json_array(void);
json_t *json_string(const char *value);
json_t *json_sprintf(const char *format, ...);
json_t *json_integer(json_int_t value);
json_t *json_real(double value);
json_t *json_pack(const char *format, ...);
json_t *json_deep_copy(const json_t *value);
int json_equal(const json_t *a, const json_t *b);
json_t *json_object_get(const json_t *object, const char *key);
json_t *json_array_get(const json_t *array, size_t index);
size_t json_array_size(const json_t *array);
int json_object_del(json_t *object, const char *key);
int json_object_set_new(json_t *object, const char *key, json_t *value);
int json_array_append_new(json_t *array, json_t *value);
const char *json_string_value(const json_t *value);
int json_is_string(const json_t *value);
void json_decref(json_t *value); /* NULL is fine: nothing was ever made */

#define json_array_foreach(array, index, value)                                                    \
    for (index = 0; index < json_array_size(array) && (value = json_array_get(array, index));      \
         index++)

#endif
