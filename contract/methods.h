/* contract/methods.h - what may be trained: parts, and THE table of the methods that are made of
 * them.
 *
 * From a row of DS_PRESETS come the words of --method with their help, what the API takes, what
 * spec.json may say, the table of an adapter's entries (engine/model/adapter.c), its metadata, and
 * the table of docs/api.md.  docs/changing.md says how a method is added.
 *
 * Constants only.  Thread: any.
 */
#ifndef DS_CONTRACT_METHODS_H
#define DS_CONTRACT_METHODS_H

/* W(bit, word in an adapter's metadata).  Bits are never given anew: their order is that of the
 * entries in an adapter's table, and random start values are named by an entry's position.  So a
 * new part comes last, and its entries come after those of all parts before it. */
#define DS_PARTS(W)                                                                                \
    W(DS_PART_BASE, "base")       /* every tensor of the base that is learned */                   \
    W(DS_PART_SCALE, "scale")     /* a of each targeted layer */                                   \
    W(DS_PART_SHIFT, "shift")     /* b */                                                          \
    W(DS_PART_LOWRANK, "lowrank") /* s, U and V */                                                 \
    W(DS_PART_ROWS, "rows")       /* embeddings of the new classes */                              \
    W(DS_PART_BIASES, "biases")   /* of linear layers, in the place of the base's */               \
    W(DS_PART_GAMMA, "gamma")     /* reserved: a factor of each residual branch */
enum ds_part {
    DS_PART_BASE = 1,
    DS_PART_SCALE = 2,
    DS_PART_SHIFT = 4,
    DS_PART_LOWRANK = 8,
    DS_PART_ROWS = 16,
    DS_PART_BIASES = 32,
    DS_PART_GAMMA = 64
};
/* Those of an Affiner: what the options of section "method" are about. */
#define DS_PARTS_AFFINER (DS_PART_SCALE | DS_PART_SHIFT | DS_PART_LOWRANK)

/* P(W, value, word, parts, targets, what it trains: one line, no capital, no full stop)
 *   value    of enum ds_method; a new one comes last
 *   targets  layers that are meant where no option names any: DS_TARGET_DEFAULT or DS_TARGET_EVERY
 *            (engine/model/arch.h).  The parts of an Affiner ask the option, the others this.
 * W is for the macro P. */
#define DS_PRESETS(P, W)                                                                           \
    P(W, DS_METHOD_AFFINER, "affiner", DS_PARTS_AFFINER | DS_PART_ROWS, DS_TARGET_DEFAULT,         \
      "a scale, a shift and a low-rank branch of each layer, and class embeddings")                \
    P(W, DS_METHOD_EMBEDDING, "embedding", DS_PART_ROWS, DS_TARGET_DEFAULT,                        \
      "class embeddings alone")                                                                    \
    P(W, DS_METHOD_FULL, "full", DS_PART_BASE | DS_PART_ROWS, DS_TARGET_DEFAULT,                   \
      "all of the base, and class embeddings")                                                     \
    P(W, DS_METHOD_BITFIT, "bitfit", DS_PART_BIASES | DS_PART_ROWS, DS_TARGET_EVERY,               \
      "the biases of all linear layers, and class embeddings")
#define DS_METHOD_OTHERWISE "affiner"

#define DS_PRESET_VALUE(W, value, ...) value,
enum ds_method { DS_PRESETS(DS_PRESET_VALUE, ) };
#undef DS_PRESET_VALUE

typedef struct {
    const char *name;
    unsigned parts; /* of enum ds_part */
    const char *help;
} ds_preset;

extern const ds_preset ds_preset_table[]; /* [enum ds_method]; ends with name NULL */

const ds_preset *ds_preset_find(const char *name); /* NULL: there is none */

/* Has an option of section "method" (contract/options.def) an effect with it?  p may be NULL: no.
 * */
int ds_preset_takes(const ds_preset *p, const char *option);

/* Schema of its adapters' files: N of diffscaler.adapter/N.  1 is from before methods had parts and
 * has the three of then; 2 names the parts.  A method keeps the number that it began with, since a
 * published file keeps its bytes.  The newest is what this program reads up to. */
enum { DS_ADAPTER_SCHEMA_PARTS = 2, DS_ADAPTER_SCHEMA_NEWEST = DS_ADAPTER_SCHEMA_PARTS };
int ds_preset_schema(const ds_preset *p);

/* Is the option kept with an adapter?  With schema 1 each is, with effect or without; from then on
 * one without effect is as if nobody had given it.  p may be NULL: yes. */
int ds_preset_keeps(const ds_preset *p, const char *option);

#endif
