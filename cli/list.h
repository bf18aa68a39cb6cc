/* cli/list.h - lists: their pages, and the three ways in which each list command shows them.
 * Thread: one. */
#ifndef DS_CLI_LIST_H
#define DS_CLI_LIST_H

#include "cli/cli.h"

/* The pages of a list: `path` may already have a query.  limit <= 0: all.  *next (malloc'ed or
 * NULL) is the cursor when more is there. */
int ds_fetch_list(ds_cli *c, const char *path, int64_t limit, json_t **items, char **next,
                  ds_error *err);

/* ds_fetch_list with --limit and --all of the command, and a hint when more is there. */
int ds_fetch_page(ds_cli *c, const char *path, json_t **items, char **next, ds_error *err);

/* How a list looks. */
typedef struct {
    const char *kind;                              /* --json: the schema is "dsctl.v1/KIND" */
    const char *id;                                /* --quiet: this member of each, a line each */
    void (*quiet)(ds_cli *c, const json_t *items); /* or, where id is NULL, this; else the table */
    const char *none;                              /* said when there is nothing */
    void (*table)(ds_cli *c, const json_t *items);
} ds_list_view;

/* Shows a list; takes items and next (which may be NULL).  0. */
int ds_list_show(ds_cli *c, const ds_list_view *v, json_t *items, char *next);

/* ds_fetch_page, then ds_list_show. */
int ds_list(ds_cli *c, const char *path, const ds_list_view *v, ds_error *err);

#endif
