/* worker/commands/worker.h - the commands of diffscaler-worker.
 *
 * Each takes the arguments after its name and returns the process's exit code (docs/jobs.md). */
#ifndef DS_WORKER_COMMANDS_WORKER_H
#define DS_WORKER_COMMANDS_WORKER_H

int ds_worker_run(int argc, char **argv);      /* run DIR: one job directory */
int ds_worker_scan(int argc, char **argv);     /* what a folder has */
int ds_worker_devices(int argc, char **argv);  /* which GPUs there are */
int ds_worker_pretrain(int argc, char **argv); /* make a base from a folder of images */
int ds_worker_montage(int argc, char **argv);  /* pictures below each other */
int ds_worker_plan(int argc, char **argv);     /* bytes and seconds of a training */
int ds_worker_export(int argc, char **argv);   /* an adapter in the layouts of other programs */

int ds_worker_import_base(int argc, char **argv); /* a DiT of another program becomes a base */
int ds_worker_import_feature_net(int argc, char **argv); /* FID's network, canonical */
int ds_worker_evaluate(int argc, char **argv);           /* FID of a folder */
int ds_worker_decode(int argc, char **argv);             /* pixels of picture files */

#endif
