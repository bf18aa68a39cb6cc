/* daemon/api/routes.c - every path of the API, once, with all that a request to it may say. */
#include "daemon/api/api.h"

static const char sample_members[] = "ref|base|n|class|seed|columns|sheet"
#define SAMPLE(name, flag, key, ...) "|" #key
#include "contract/options.def"
    ;

/* clang-format off */
const ds_route ds_routes[] = {
    /* method, path, what answers it, parameters of the query, members of the body */
    {"GET", "/", ds_api_root, NULL, NULL},
    {"GET", "/healthz", ds_api_health, NULL, NULL},
    {"GET", "/readyz", ds_api_ready, NULL, NULL},
    {"GET", "/metrics", ds_api_metrics, NULL, NULL},
    {"GET", "/v1/version", ds_api_version, NULL, NULL},
    {"GET", "/v1/status", ds_api_status, NULL, NULL},
    {"POST", "/v1/stop", ds_api_stop, NULL, NULL},
    {"POST", "/v1/datasets", ds_api_dataset_add, NULL,
     "path|name|method|options|watch|base|feature_net|publish_worse"},
    {"GET", "/v1/datasets", ds_api_dataset_list, "limit|cursor|removed?", NULL},
    {"GET", "/v1/datasets/{}", ds_api_dataset_get, NULL, NULL},
    {"DELETE", "/v1/datasets/{}", ds_api_dataset_remove, NULL, NULL},
    {"GET", "/v1/datasets/{}/rejected", ds_api_dataset_rejected, "limit|cursor", NULL},
    {"GET", "/v1/datasets/{}/manifest", ds_api_dataset_manifest, "version", NULL},
    {"POST", "/v1/datasets/{}/rescan", ds_api_dataset_rescan, NULL, NULL},
    {"POST", "/v1/datasets/{}/pause", ds_api_dataset_pause, NULL, NULL},
    {"POST", "/v1/datasets/{}/resume", ds_api_dataset_resume, NULL, NULL},
    {"GET", "/v1/bases", ds_api_base_list, "limit|cursor", NULL},
    {"POST", "/v1/bases", ds_api_base_add, NULL,
     "source|vae|name|license|weights|heads|objective|probe"},
    {"GET", "/v1/bases/{}", ds_api_base_get, NULL, NULL},
    {"DELETE", "/v1/bases/{}", ds_api_base_remove, NULL, NULL},
    {"GET", "/v1/default-base", ds_api_default_base_get, NULL, NULL},
    {"PUT", "/v1/default-base", ds_api_default_base_set, NULL, "base"},
    {"GET", "/v1/feature_nets", ds_api_feature_net_list, "limit|cursor", NULL},
    {"POST", "/v1/feature_nets", ds_api_feature_net_add, NULL, "source|name|license|weights"},
    {"GET", "/v1/feature_nets/{}", ds_api_feature_net_get, NULL, NULL},
    {"DELETE", "/v1/feature_nets/{}", ds_api_feature_net_remove, NULL, NULL},
    {"GET", "/v1/default-feature-net", ds_api_default_net_get, NULL, NULL},
    {"PUT", "/v1/default-feature-net", ds_api_default_net_set, NULL, "feature_net"},
    {"POST", "/v1/gc", ds_api_gc, NULL, "dry_run|grace_seconds"},
    {"POST", "/v1/prune", ds_api_prune, NULL,
     "dry_run|jobs_seconds|folders_seconds|events_seconds"},
    {"POST", "/v1/fsck", ds_api_fsck, NULL, "quick|repair"},
    {"GET", "/v1/adapters", ds_api_adapter_list, "dataset|status|max_fd|since|limit|cursor", NULL},
    {"GET", "/v1/adapters/{}", ds_api_adapter_get, NULL, NULL},
    {"DELETE", "/v1/adapters/{}", ds_api_adapter_remove, "force?", NULL},
    {"GET", "/v1/adapters/{}/file", ds_api_adapter_file, NULL, NULL},
    {"GET", "/v1/adapters/{}/aliases", ds_api_adapter_aliases, NULL, NULL},
    {"GET", "/v1/adapters/{}/aliases/{}", ds_api_alias_history, NULL, NULL},
    {"PUT", "/v1/adapters/{}/aliases/{}", ds_api_alias_set, NULL, "version|reason"},
    {"DELETE", "/v1/adapters/{}/aliases/{}", ds_api_alias_remove, NULL, NULL},
    {"GET", "/v1/aliases", ds_api_alias_list, "limit|cursor", NULL},
    {"GET", "/v1/jobs", ds_api_job_list, "state|kind|dataset|limit|cursor", NULL},
    {"GET", "/v1/jobs/{}", ds_api_job_get, NULL, NULL},
    {"GET", "/v1/jobs/{}/log", ds_api_job_log, "offset|follow?", NULL},
    {"GET", "/v1/jobs/{}/events", ds_api_job_events, "since|follow?", NULL},
    {"GET", "/v1/jobs/{}/metrics", ds_api_job_metrics, "key", NULL},
    {"GET", "/v1/jobs/{}/files/{}", ds_api_job_file, NULL, NULL},
    {"POST", "/v1/jobs/{}/cancel", ds_api_job_cancel, NULL, NULL},
    {"POST", "/v1/samples", ds_api_sample_add, NULL,
     sample_members},
    {"POST", "/v1/verify", ds_api_verify_add, NULL, "ref|base|full|base_task"},
    {"GET", "/v1/evaluations", ds_api_evaluation_list, "adapter|dataset|metric|limit|cursor", NULL},
    {"GET", "/v1/events", ds_api_events, "since|follow?|type", NULL},
    {"GET", "/v1/blobs/{}", ds_api_blob_get, NULL, NULL},
};
/* clang-format on */
const size_t ds_route_count = sizeof ds_routes / sizeof *ds_routes;
