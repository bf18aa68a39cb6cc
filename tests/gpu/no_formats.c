/* tests/gpu/no_formats.c - stands in for the file formats, which gpu-check does without: each call
 * ends the process and says so.  (Reading tensors is flat_st.c.) */
#include <stdio.h>
#include <stdlib.h>

static void none(const char *what) {
    fprintf(stderr, "%s: the programs of gpu-check are built without file formats\n", what);
    abort();
}

/* Never returns, so the type that callers see does not matter. */
#define NONE(name)                                                                                 \
    void name(void);                                                                               \
    void name(void) { none(#name); }

NONE(ds_digest)
NONE(ds_json_bool)
NONE(ds_json_canonical)
NONE(ds_json_int)
NONE(ds_json_need_int)
NONE(ds_json_need_number)
NONE(ds_json_need_object)
NONE(ds_json_need_string)
NONE(ds_json_number)
NONE(ds_json_parse)
NONE(ds_json_string)
NONE(ds_st_dtype_name)
NONE(ds_st_open_memory)
NONE(ds_st_open_owned)
NONE(ds_st_writer_add)
NONE(ds_st_writer_add_f32)
NONE(ds_st_writer_finish)
NONE(ds_st_writer_free)
NONE(ds_st_writer_meta)
NONE(ds_st_writer_new)
NONE(ds_zio_read_file)
NONE(json_array)
NONE(json_array_append_new)
NONE(json_array_get)
NONE(json_array_size)
NONE(json_deep_copy)
NONE(json_equal)
NONE(json_integer)
NONE(json_is_string)
NONE(json_object)
NONE(json_object_del)
NONE(json_object_get)
NONE(json_object_set_new)
NONE(json_pack)
NONE(json_real)
NONE(json_sprintf)
NONE(json_string)
NONE(json_string_value)

/* Of an adapter that was never read. */
void json_decref(void *value);
void json_decref(void *value) {
    if (value)
        none("json_decref");
}
