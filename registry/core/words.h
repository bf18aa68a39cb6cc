/* registry/core/words.h - kinds and states of jobs (contract/job.h) as literals of SQL.
 *
 * They are put into statements as constants, not bound: SQLite takes a partial index (WHERE state =
 * 'queued') only for a statement that says the same.  Internal to registry/.
 */
#ifndef DS_REGISTRY_CORE_WORDS_H
#define DS_REGISTRY_CORE_WORDS_H

#include "contract/job.h"

#define SQL_WORD(word) "'" word "'"

#define SQL_SCAN SQL_WORD(DS_WORD_SCAN)
#define SQL_TRAIN SQL_WORD(DS_WORD_TRAIN)
#define SQL_VERIFY SQL_WORD(DS_WORD_VERIFY)
#define SQL_IMPORT SQL_WORD(DS_WORD_IMPORT)
#define SQL_QUEUED SQL_WORD(DS_WORD_QUEUED)
#define SQL_RUNNING SQL_WORD(DS_WORD_RUNNING)
#define SQL_DONE SQL_WORD(DS_WORD_DONE)
#define SQL_REJECTED SQL_WORD(DS_WORD_REJECTED)
#define SQL_FAILED SQL_WORD(DS_WORD_FAILED)
#define SQL_CANCELLED SQL_WORD(DS_WORD_CANCELLED)

#define SQL_LIVE "(" SQL_QUEUED ", " SQL_RUNNING ")" /* job.state IN: not over yet */

#endif
