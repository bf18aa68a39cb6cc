/* worker/commands/evaluate_sides.c - what the two sides of `diffscaler-worker evaluate` are and
 * what can be measured with them: all that can be refused before the first picture is read. */
#include "base/fs.h"
#include "base/mem.h"
#include "worker/commands/evaluate_cmd.h"
#include "worker/measure/feature_net.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *ds_ev_tool(enum ds_fid_mode mode) {
    return mode == DS_FID_BUNDLED ? NULL
           : mode == DS_FID_CLEAN ? "clean-fid"
                                  : ds_fid_mode_name(mode);
}

enum ds_decode_use ds_ev_use(enum ds_fid_mode mode) {
    return mode == DS_FID_BUNDLED ? DS_DECODE_TRAIN : DS_DECODE_PILLOW;
}

void ds_ev_side_release(ds_ev_side *s) {
    ds_picture_list_release(&s->list);
    ds_reference_release(&s->reference);
    ds_fid_suite_free(s->suite);
    ds_npz_stats_release(&s->stats);
    ds_rejected_release(&s->dropped);
    free(s->x);
    free(s->classes);
}

/* ---------------------------------------------------------------- kinds */

/* By what it is, not by its name. */
static int find_kind(ds_ev_side *s, ds_error *err) {
    struct stat st;
    unsigned char b[4] = {0};
    if (stat(s->path, &st))
        return ds_fail_errno(err, "cannot find '%.300s'", s->path);
    if (S_ISDIR(st.st_mode)) {
        s->kind = DS_EV_FOLDER;
        return 0;
    }
    ssize_t n = -1;
    if (S_ISREG(st.st_mode)) { /* opening a pipe would wait */
        int fd = open(s->path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return ds_fail_errno(err, "cannot open '%.300s'", s->path);
        n = read(fd, b, sizeof b);
        close(fd);
    }
    if ((n == 4 && !memcmp(b, "PK\3\4", 4)) || (n == 0 && ds_fs_ends_with(s->path, ".npz")))
        s->kind = DS_EV_NPZ;
    else if (n == 4 && !memcmp(b, "\x28\xb5\x2f\xfd", 4))
        s->kind = DS_EV_REFERENCE;
    else
        return ds_fail(err, DS_EINVAL,
                       "'%.300s' is no folder, no .npz of statistics or pictures, and no reference "
                       "(.zst)",
                       s->path);
    return 0;
}

/* Reads what is small: headers, statistics, the features of a reference. */
static int open_side(ds_ev_side *s, ds_error *err) {
    int rc = find_kind(s, err);
    if (!rc && s->kind == DS_EV_NPZ) {
        rc = ds_npz_look(s->path, &s->npz, err);
        if (!rc && s->npz.stats)
            rc = ds_npz_read_stats(s->path, &s->stats, err);
        s->available = s->npz.pictures;
        snprintf(s->decode, sizeof s->decode, "%s", DS_EV_AS_STORED);
    }
    if (!rc && s->kind == DS_EV_REFERENCE) {
        rc = ds_reference_read(&s->reference, s->path, NULL, err);
        s->available = s->reference.n;
    }
    return rc;
}

/* The bundled network is packed with zstd, those of FID are not. */
static int is_packed(const char *path) {
    unsigned char b[4];
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), yes;
    if (fd < 0)
        return 0;
    yes = read(fd, b, sizeof b) == sizeof b && !memcmp(b, "\x28\xb5\x2f\xfd", sizeof b);
    close(fd);
    return yes;
}

/* The mode that was not given: a reference says what it was made with. */
static int settle_mode(ds_ev_run *e, ds_error *err) {
    ds_ev_options *o = &e->o;
    if (!o->mode_given)
        o->mode = o->net && !ds_fs_ends_with(o->net, ".zst") ? DS_FID_PYTORCH_FID : DS_FID_BUNDLED;
    if (!o->mode_given && e->real.kind == DS_EV_REFERENCE) {
        int rc = ds_feature_net_mode_of(e->real.reference.resize, &o->mode, err);
        if (rc)
            return ds_error_prefix(err, "'%.200s'", o->against);
    }
    if (o->mode != DS_FID_BUNDLED && !o->net)
        return ds_fail(err, DS_EINVAL,
                       "mode '%s' needs FID's network: give --feature-net "
                       "pt_inception-2015-12-05-6726825d.pth (from the releases of pytorch-fid, "
                       "Apache-2.0)",
                       ds_fid_mode_name(o->mode));
    if (o->net && access(o->net, R_OK))
        return ds_fail_errno(err, "cannot read the feature network '%.300s'", o->net);
    if (o->mode == DS_FID_BUNDLED && o->net && !is_packed(o->net))
        return ds_fail(err, DS_EINVAL,
                       "mode 'bundled' is of the bundled network, '%.300s' is another one: leave "
                       "out --feature-net, or choose a --mode of FID's network",
                       o->net);
    return 0;
}

/* ---------------------------------------------------------------- files */

static void say_others(ds_ev_run *e, const ds_ev_side *s, const char *shown) {
    const ds_picture_list *l = &s->list;
    char n[32];
    if (l->others.count)
        ds_ev_note(e, "%s file%s of '%.200s' not counted, as in %s: '%.200s' (%s)%s",
                   ds_ev_count(n, l->others.count), l->others.count == 1 ? "" : "s", shown,
                   ds_ev_tool(e->o.mode), l->others.items[0].path, l->others.items[0].reason,
                   l->others.count > 1 ? ", ..." : "");
    if (l->folders)
        ds_ev_note(e, "%s folder%s below '%.200s' not looked into, as in %s; --recursive does",
                   ds_ev_count(n, l->folders), l->folders == 1 ? "" : "s", shown,
                   ds_ev_tool(e->o.mode));
    if (l->links)
        ds_ev_note(e, "%s link%s to folders in '%.200s' not followed, as in %s",
                   ds_ev_count(n, l->links), l->links == 1 ? "" : "s", shown,
                   ds_ev_tool(e->o.mode));
}

static int no_picture(const ds_ev_run *e, const ds_ev_side *s, ds_error *err) {
    const char *tool = ds_ev_tool(e->o.mode);
    const ds_rejected_list *w = &s->list.walked;
    if (!tool && w->listed)
        return ds_fail(err, DS_EINVAL, "'%.200s' has no picture file: '%.200s' (%.100s)%s", s->path,
                       w->items[0].path, w->items[0].reason, w->count > 1 ? ", ..." : "");
    if (!tool)
        return ds_fail(err, DS_EINVAL, "'%.300s' has no picture file", s->path);
    return ds_fail(err, DS_EINVAL, "'%.200s' has no picture file that %s counts (%s:%s)%s", s->path,
                   tool, e->o.mode == DS_FID_CLEAN ? "below it" : "in the folder itself",
                   ds_picture_list_endings(e->o.mode),
                   s->list.folders ? "; --recursive looks into the folders below"
                   : s->list.links ? "; links to folders are not followed: give the folder itself"
                                   : "");
}

static int list_side(ds_ev_run *e, ds_ev_side *s, ds_error *err) {
    if (s->kind != DS_EV_FOLDER)
        return 0;
    int rc = ds_picture_list_make(&s->list, s->path, e->o.mode, e->o.recursive, err);
    if (rc)
        return rc;
    s->available = s->list.count;
    snprintf(s->decode, sizeof s->decode, "%s", ds_decode_id(ds_ev_use(e->o.mode)));
    if (!s->list.count)
        return no_picture(e, s, err);
    char *shown = ds_name_escape(s->path);
    const ds_rejected_list *u = &s->list.unread;
    if (ds_ev_tool(e->o.mode))
        say_others(e, s, shown);
    if (u->count && !e->o.skip_broken)
        rc = ds_fail(err, DS_EINVAL,
                     "%lld file%s of '%.200s' that %s counts can not be read here: '%.200s' (%s is "
                     "not supported)%s; --skip-broken leaves them out",
                     (long long)u->count, u->count == 1 ? "" : "s", shown, ds_ev_tool(e->o.mode),
                     u->items[0].path, u->items[0].reason, u->count > 1 ? ", ..." : "");
    free(shown);
    return rc;
}

/* --n: first ones of what has an order of its own, else drawn. */
static void settle_n(ds_ev_run *e) {
    ds_ev_side *s = &e->fake;
    char n[32], all[32], *shown = ds_name_escape(s->path);
    ds_ev_count(n, e->o.n);
    ds_ev_count(all, s->available);
    if (!e->o.n)
        ;
    else if (!s->available)
        ds_ev_note(e, "--n has no effect: '%.300s' has statistics only", shown);
    else if (e->o.n > s->available)
        ds_ev_note(e, "'%.300s' has %s pictures, fewer than --n %s: all are taken", shown, all, n);
    else if (e->o.n < s->available) {
        s->asked = e->o.n;
        if (s->kind == DS_EV_FOLDER && e->o.mode == DS_FID_BUNDLED)
            ds_ev_note(e, "%s of %s pictures of '%.300s' are drawn with seed %lld", n, all, shown,
                       (long long)e->o.seed);
        else
            ds_ev_note(e, "the first %s of %s pictures of '%.300s' are taken, by %s", n, all, shown,
                       s->kind == DS_EV_FOLDER ? "their names" : "their order in the file");
    }
    free(shown);
}

/* ---------------------------------------------------------------- metrics */

static int has_rows(const ds_ev_side *s) { return s->available > 0; }

/* Where a side takes its share of `want` from.  A file's own statistics are its FID, as for ADM's
 * evaluator and pytorch-fid, unless only some of its pictures are wanted, or others saved. */
static void settle_sources(ds_ev_run *e, ds_ev_side *s, int want, int own) {
    int gaussians = want & (DS_FID_WANT_FID | DS_FID_WANT_SFID);
    int usable = s->kind == DS_EV_NPZ && s->npz.stats && !(own && has_rows(s));
    if (usable && want & DS_FID_WANT_SFID && !s->npz.spatial && has_rows(s)) {
        char *shown = ds_name_escape(s->path);
        ds_ev_note(e,
                   "'%.300s' has no mu_s and sigma_s: FID and sFID are of its pictures, not of "
                   "its mu and sigma",
                   shown);
        free(shown);
        usable = 0;
    }
    s->from_stats = usable ? gaussians : 0;
    s->from_pictures = has_rows(s) ? want & ~s->from_stats : 0;
    if (!usable)
        ds_npz_stats_release(&s->stats);
    if (usable && has_rows(s) && gaussians) {
        char n[32], *shown = ds_name_escape(s->path);
        const char *own_side = s == &e->fake ? "of" : "against";
        ds_ev_note(e, "FID is %s mu and sigma of '%.300s', not %s the %s pictures in it", own_side,
                   shown, own_side, ds_ev_count(n, s->available));
        free(shown);
    }
}

static int refuse(const ds_ev_side *s, const char *what, const char *why, ds_error *err) {
    return ds_fail(err, DS_EINVAL, "%s needs %s; '%.200s' has none", what, why, s->path);
}

/* A side must have what a metric is made of. */
static int check_side(const ds_ev_run *e, const ds_ev_side *s, int want, ds_error *err) {
    int stats = s->kind == DS_EV_NPZ && s->npz.stats;
    if (want & DS_FID_WANT_SFID &&
        (s->kind == DS_EV_REFERENCE || (!has_rows(s) && !(stats && s->npz.spatial))))
        return ds_fail(err, DS_EINVAL, "'%.200s' has no %s for sFID%s: give a folder or pictures",
                       s->path, s->kind == DS_EV_REFERENCE ? "features" : "statistics",
                       s->kind == DS_EV_REFERENCE ? "" : " (mu_s, sigma_s)");
    if (!has_rows(s) && want & DS_FID_WANT_KID)
        return refuse(s, "KID", "the pictures of both sides, statistics are not enough", err);
    if (!has_rows(s) && want & DS_FID_WANT_PR)
        return refuse(s, "precision and recall",
                      "the pictures of both sides, statistics are not enough", err);
    if (!has_rows(s) && want & DS_FID_WANT_IS)
        return refuse(s, "the Inception Score", "pictures, statistics are not enough", err);
    (void)e;
    return 0;
}

/* What is measured when nobody says: classes too where there are some. */
static int default_metrics(ds_ev_run *e) {
    int want = DS_FID_WANT_FID;
    if (e->o.against && has_rows(&e->real) && has_rows(&e->fake)) {
        want |= DS_FID_WANT_KID;
        want |= !ds_ev_classes_find(e, NULL) && ds_ev_classes_fit(e) ? DS_FID_WANT_CLASS : 0;
    }
    return want;
}

static int settle_metrics(ds_ev_run *e, ds_error *err) {
    ds_ev_options *o = &e->o;
    int two = o->against != NULL, rc = 0;
    if (!o->want_given)
        o->want = default_metrics(e);
    else if (two && o->want & DS_FID_WANT_CLASS)
        rc = ds_ev_classes_find(e, err);
    if (rc)
        return rc;
    if (o->save)
        o->want |= DS_FID_WANT_FID;
    if (o->mode == DS_FID_BUNDLED && o->want & (DS_FID_WANT_IS | DS_FID_WANT_SFID))
        return ds_fail(err, DS_EINVAL,
                       "the bundled network ends before the layers of %s: give --feature-net",
                       o->want & DS_FID_WANT_IS ? "the Inception Score" : "sFID");
    if (!two && o->want & (DS_FID_WANT_KID | DS_FID_WANT_PR | DS_FID_WANT_CLASS))
        return ds_fail(err, DS_EINVAL, "%s needs two sides: give --against",
                       o->want & DS_FID_WANT_KID  ? "KID"
                       : o->want & DS_FID_WANT_PR ? "precision and recall"
                                                  : "class accuracy");
    if (o->save && !has_rows(&e->fake))
        return ds_fail(err, DS_EINVAL, "'%.300s' has no pictures whose statistics could be saved",
                       o->folder);
    if (e->fake.kind == DS_EV_REFERENCE)
        return ds_fail(err, DS_EINVAL, "'%.300s' is a reference: it goes to --against", o->folder);
    if (two)
        rc = check_side(e, &e->real, o->want & ~DS_FID_WANT_IS, err);
    return rc ? rc : check_side(e, &e->fake, o->want, err);
}

/* The smaller number of pictures, of the sides that are not statistics for this metric. */
static int64_t least_count(const ds_ev_run *e, const ds_ev_metric *m) {
    int64_t n = INT64_MAX, k;
    const ds_ev_side *const sides[] = {&e->fake, &e->real};
    for (int i = 0; i < (m->both && e->o.against ? 2 : 1); i++) {
        if (!(sides[i]->from_pictures & m->want))
            continue;
        k = sides[i]->asked ? sides[i]->asked : sides[i]->available;
        k -= e->o.skip_broken ? ds_picture_list_unread(&sides[i]->list, k) : 0;
        n = k < n ? k : n;
    }
    return n;
}

/* Metrics for which there are too few pictures are lost now, not after the work. */
static int check_counts(ds_ev_run *e, ds_error *err) {
    ds_error *first = NULL;
    for (int k = 0; k < DS_EV_METRICS; k++) {
        const ds_ev_metric *m = &ds_ev_metrics[k];
        int64_t n = least_count(e, m);
        if (!(e->o.want & m->want) || n >= m->least)
            continue;
        ds_fail(&e->lost[k], DS_EFAILED, "too few pictures for %s: %lld, need %lld",
                ds_ev_metric_name(e, m), (long long)n, (long long)m->least);
        first = first ? first : &e->lost[k];
        e->o.want &= ~m->want;
        e->fake.from_pictures &= ~m->want;
        e->real.from_pictures &= ~m->want;
    }
    if (first && (!e->o.want || (e->o.save && !(e->o.want & DS_FID_WANT_FID))))
        return ds_fail(err, DS_EINVAL, "%s", first->message);
    for (int k = 0; k < DS_EV_METRICS; k++) {
        if (e->lost[k].code)
            ds_ev_note(e, "%s", e->lost[k].message);
        if (ds_ev_unasked(e, &ds_ev_metrics[k]))
            e->lost[k] = (ds_error){0};
    }
    return 0;
}

static void say_foreign_metrics(ds_ev_run *e) {
    if (e->o.mode == DS_FID_TORCH_FIDELITY && e->o.want & DS_FID_WANT_PR)
        ds_ev_note(e, "precision and recall are of the features of FID's network, as ADM computes "
                      "them; torch-fidelity's own default is VGG16, which gives other numbers");
}

static void say_unused(ds_ev_run *e) {
    const char *mode = ds_fid_mode_name(e->o.mode);
    if (e->o.recursive && (e->o.mode == DS_FID_BUNDLED || e->o.mode == DS_FID_CLEAN))
        ds_ev_note(e, "--recursive has no effect: mode %s looks below folders anyway", mode);
    if (e->o.skip_broken && !ds_ev_tool(e->o.mode))
        ds_ev_note(e, "--skip-broken has no effect: mode %s leaves out what cannot be read", mode);
    if (e->o.force && !e->o.save)
        ds_ev_note(e, "--force has no effect without --save-stats");
}

int ds_ev_sides_look(ds_ev_run *e, ds_error *err) {
    ds_ev_options *o = &e->o;
    int rc = o->save ? ds_fs_output_check(o->save, o->force, err) : 0;
    e->fake.path = o->folder;
    e->real.path = o->against;
    rc = rc ? rc : open_side(&e->fake, err);
    if (!rc && o->against)
        rc = open_side(&e->real, err);
    rc = rc ? rc : settle_mode(e, err);
    if (!rc)
        say_unused(e);
    rc = rc ? rc : list_side(e, &e->fake, err);
    if (!rc && o->against)
        rc = list_side(e, &e->real, err);
    rc = rc ? rc : settle_metrics(e, err);
    if (rc)
        return rc;
    settle_n(e);
    settle_sources(e, &e->fake, o->want, e->fake.asked > 0 || o->save);
    if (o->against)
        settle_sources(e, &e->real, o->want & ~DS_FID_WANT_IS, 0);
    rc = check_counts(e, err);
    if (!rc)
        say_foreign_metrics(e);
    return rc;
}

/* ---------------------------------------------------------------- the network */

/* Foreign statistics do not say what made them; ours must be of this network and preprocessing. */
static int match_stats(ds_ev_run *e, ds_ev_side *s, ds_error *err) {
    const ds_npz_stats *t = &s->stats;
    int dim = ds_fid_mode_dim(e->o.mode);
    if (t->dim != dim)
        return ds_fail(err, DS_EINVAL, "'%.200s' is of %d features, mode '%s' has %d%s", s->path,
                       t->dim, ds_fid_mode_name(e->o.mode), dim,
                       t->dim == DS_INCEPTION_POOL ? ": give --feature-net" : "");
    if (t->known && strcmp(t->net, e->digest))
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' was made with network %.12s..., this is %.12s...: the two cannot "
                       "be compared",
                       s->path, t->net, e->digest);
    if (t->known && strcmp(t->preprocess, ds_fid_mode_preprocess(e->o.mode)))
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' was made with preprocessing '%s', mode '%s' is '%s': the two "
                       "cannot be compared",
                       s->path, t->preprocess, ds_fid_mode_name(e->o.mode),
                       ds_fid_mode_preprocess(e->o.mode));
    if (s->from_stats & DS_FID_WANT_SFID && t->dim_s != DS_INCEPTION_SPATIAL)
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' has no statistics for sFID (mu_s, sigma_s of %d numbers)", s->path,
                       DS_INCEPTION_SPATIAL);
    if (!t->known) {
        char *shown = ds_name_escape(s->path);
        ds_ev_note(e,
                   "'%.300s' does not say its network and preprocessing; it is taken to be made "
                   "with the same network in mode %s",
                   shown, ds_fid_mode_name(e->o.mode));
        free(shown);
    }
    return 0;
}

static int match_reference(const ds_ev_run *e, const ds_ev_side *s, ds_error *err) {
    const ds_reference *r = &s->reference;
    if (!strcmp(r->net, e->digest) && !strcmp(r->resize, ds_fid_mode_preprocess(e->o.mode)) &&
        r->dim == ds_fid_mode_dim(e->o.mode))
        return 0;
    return ds_fail(err, DS_EINVAL,
                   "'%.200s' was made with network %.12s... and '%s', this is %.12s... and '%s'",
                   s->path, r->net, r->resize, e->digest, ds_fid_mode_preprocess(e->o.mode));
}

/* Pixels that were made by other rules are compared, and said. */
static void say_decoding(ds_ev_run *e) {
    const ds_ev_side *a = &e->fake, *b = &e->real;
    const char *x = a->from_stats ? a->stats.decode : a->decode;
    const char *y = b->from_stats ? b->stats.decode : b->decode;
    if (b->kind == DS_EV_REFERENCE && ds_ev_tool(e->o.mode))
        ds_ev_note(e,
                   "the reference holds pictures as trainings decode them, '%.200s' is decoded "
                   "as %s does it: pictures with transparency, EXIF orientation or 16 bits "
                   "differ",
                   a->path, ds_ev_tool(e->o.mode));
    if (*x && *y && strcmp(x, y) && strcmp(x, DS_EV_AS_STORED) && strcmp(y, DS_EV_AS_STORED))
        ds_ev_note(e,
                   "one side was decoded as '%s', the other as '%s': pictures with transparency, "
                   "EXIF orientation, 16 bits or four inks differ; save the statistics again "
                   "where that matters",
                   x, y);
}

int ds_ev_sides_match(ds_ev_run *e, ds_error *err) {
    ds_ev_side *const sides[] = {&e->real, &e->fake};
    int rc = 0;
    for (int i = 0; !rc && i < 2; i++) {
        if (sides[i]->from_stats)
            rc = match_stats(e, sides[i], err);
        if (!rc && sides[i]->kind == DS_EV_REFERENCE)
            rc = match_reference(e, sides[i], err);
    }
    if (!rc && e->o.against)
        say_decoding(e);
    return rc;
}
