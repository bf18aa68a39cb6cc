/* daemon/jobs/folders.c - see folders.h. */
#include "daemon/jobs/folders.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/core/events.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MARK_MAX (64 << 10)
#define SPEC_MAX (16 << 20)
#define CLOCK_SLACK_MS 2000 /* times of files and of rows come from different clocks */

json_t *ds_folder_mark(ds_daemon *d, const ds_job *job) {
    char instance[64], tree[DS_HEX_SIZE] = "";
    ds_registry_instance(d->registry, instance, sizeof instance);
    ds_job_tree_digest(d->registry, job->id, tree);
    return json_pack("{ss ss sI ss sI ss}", "schema", DS_SCHEMA_OWNER, "instance", instance, "job",
                     (json_int_t)job->id, "kind", ds_job_kind_name(job->kind), "created_at",
                     (json_int_t)job->created_at, "tree_digest", tree);
}

static int is_empty(const char *dir) {
    DIR *list = opendir(dir);
    int n = 0;
    if (!list)
        return errno == ENOENT;
    while (n < 3 && readdir(list))
        n++;
    closedir(list);
    return n < 3;
}

/* Made by a program that knew no marks. */
static int older_program(const char *dir, const json_t *mark) {
    char path[PATH_MAX];
    struct stat st;
    json_t *spec = NULL;
    ds_fs_join(path, sizeof path, dir, DS_FILE_SPEC);
    if (lstat(path, &st) || ds_json_read_file(path, SPEC_MAX, &spec, NULL))
        return 0;
    const char *tree = ds_json_string(mark, "tree_digest", ""),
               *its = ds_json_string(json_object_get(spec, "dataset"), "tree_digest", "");
    int64_t written = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    int own = ds_json_int(spec, "job", -1) == ds_json_int(mark, "job", 0) &&
              !strcmp(ds_json_string(spec, "kind", ""), ds_json_string(mark, "kind", "?")) &&
              (!*tree || !strcmp(tree, its)) &&
              written + CLOCK_SLACK_MS >= ds_json_int(mark, "created_at", 0);
    json_decref(spec);
    return own;
}

int ds_folder_is_own(const char *dir, const json_t *mark) {
    char path[PATH_MAX];
    json_t *its = NULL;
    if (is_empty(dir))
        return 1;
    ds_fs_join(path, sizeof path, dir, DS_FILE_OWNER);
    if (!ds_fs_exists(path))
        return older_program(dir, mark);
    int own = !ds_json_read_file(path, MARK_MAX, &its, NULL) && json_equal(its, mark);
    json_decref(its);
    return own;
}

int ds_folder_mark_write(const char *dir, const json_t *mark, ds_error *err) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, dir, DS_FILE_OWNER);
    return ds_fs_exists(path) ? 0 : ds_json_write_file(path, mark, err);
}

/* jobs/N -> jobs/N.foreign-K, the first K that is free. */
static int move_aside(ds_daemon *d, const char *dir, int64_t job, const char *why, ds_error *err) {
    char to[PATH_MAX], subject[32];
    struct stat st;
    int k = 1;
    do {
        int n = snprintf(to, sizeof to, "%s.foreign-%d", dir, k++);
        DS_ASSERT(n > 0 && n < (int)sizeof to);
    } while (!lstat(to, &st));
    int rc = ds_fs_rename(dir, to, err);
    if (rc)
        return rc;
    ds_log(DS_LOG_WARN, "job folder '%s' is not of this registry (%s): moved to '%s'", dir, why,
           to);
    snprintf(subject, sizeof subject, "job:%lld", (long long)job);
    json_t *p = json_pack("{sI ss* ss}", "id", (json_int_t)job, "moved_to", to, "why", why);
    rc = ds_event_add(d->registry, "job.folder_foreign", subject, p, err);
    json_decref(p);
    return rc;
}

int ds_folder_claim(ds_daemon *d, const char *dir, const json_t *mark, ds_error *err) {
    if (ds_folder_is_own(dir, mark))
        return 0;
    return move_aside(d, dir, ds_json_int(mark, "job", 0),
                      "its mark or its spec is that of another job", err);
}

/* The number of a name that is nothing but a number; 0 = it is not. */
static int64_t number_of(const char *name) {
    size_t n = strlen(name);
    return n && n < 19 && *name != '0' && strspn(name, "0123456789") == n ? strtoll(name, NULL, 10)
                                                                          : 0;
}

int ds_folders_start(ds_daemon *d, ds_error *err) {
    char jobs[PATH_MAX], dir[PATH_MAX];
    int64_t last = 0, id;
    int rc = ds_job_last_id(d->registry, &last, err);
    if (rc)
        return rc;
    ds_fs_join(jobs, sizeof jobs, d->o.state, "jobs");
    DIR *list = opendir(jobs);
    if (!list)
        return ds_fail_errno(err, "cannot read '%s'", jobs);
    for (struct dirent *e; !rc && (e = readdir(list));)
        if ((id = number_of(e->d_name)) > last) {
            ds_job_dir(d, id, dir);
            rc = is_empty(dir) ? 0 : move_aside(d, dir, id, "no job has had this number here", err);
        }
    closedir(list);
    return rc;
}
