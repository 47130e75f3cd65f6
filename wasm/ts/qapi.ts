/**
 * The types of the monitor's commands and events, by their names in QEMU's schema.
 *
 * Made from the engine's own description of the schema: `SECTORA_WRITE=1 cargo test -p sectora-core
 * --test typescript` writes this file. Types that are both given and told come twice where whole
 * numbers are in them; the ones that are told end in `Told`.
 */

/** A whole number of 64 bits in arguments; in answers and events it is a `bigint`. */
export type Int = bigint | number;

/** No members. */
export type Nothing = Record<string, never>;

/** Commands: what they take and what they return. */
export interface Commands {
  "block-dirty-bitmap-add": { arguments: BlockDirtyBitmapAdd; returns: Nothing };
  "block-dirty-bitmap-clear": { arguments: BlockDirtyBitmap; returns: Nothing };
  "block-dirty-bitmap-disable": { arguments: BlockDirtyBitmap; returns: Nothing };
  "block-dirty-bitmap-enable": { arguments: BlockDirtyBitmap; returns: Nothing };
  "block-dirty-bitmap-merge": { arguments: BlockDirtyBitmapMerge; returns: Nothing };
  "block-dirty-bitmap-remove": { arguments: BlockDirtyBitmap; returns: Nothing };
  "block-latency-histogram-set": { arguments: BlockLatencyHistogramSet; returns: Nothing };
  "block-set-write-threshold": { arguments: BlockSetWriteThreshold; returns: Nothing };
  block_resize: { arguments: BlockResize; returns: Nothing };
  "blockdev-add": { arguments: BlockdevOptions; returns: Nothing };
  "blockdev-create": { arguments: BlockdevCreate; returns: Nothing };
  "blockdev-del": { arguments: BlockdevDel; returns: Nothing };
  "blockdev-reopen": { arguments: BlockdevReopen; returns: Nothing };
  "blockdev-set-active": { arguments: BlockdevSetActive; returns: Nothing };
  "blockdev-snapshot": { arguments: BlockdevSnapshot; returns: Nothing };
  "blockdev-snapshot-delete-internal-sync": { arguments: BlockdevSnapshotDeleteInternalSync; returns: SnapshotInfo };
  "blockdev-snapshot-internal-sync": { arguments: BlockdevSnapshotInternal; returns: Nothing };
  "blockdev-snapshot-sync": { arguments: BlockdevSnapshotSync; returns: Nothing };
  "change-backing-file": { arguments: ChangeBackingFile; returns: Nothing };
  cont: { arguments: Nothing; returns: Nothing };
  device_add: { arguments: DeviceAdd; returns: Nothing };
  device_del: { arguments: DeviceDel; returns: Nothing };
  "job-cancel": { arguments: JobCancel; returns: Nothing };
  "job-complete": { arguments: JobComplete; returns: Nothing };
  "job-dismiss": { arguments: JobDismiss; returns: Nothing };
  "job-finalize": { arguments: JobFinalize; returns: Nothing };
  "job-pause": { arguments: JobPause; returns: Nothing };
  "job-resume": { arguments: JobResume; returns: Nothing };
  "object-add": { arguments: ObjectOptions; returns: Nothing };
  "object-del": { arguments: ObjectDel; returns: Nothing };
  qmp_capabilities: { arguments: QmpCapabilities; returns: Nothing };
  "query-block": { arguments: Nothing; returns: BlockInfo[] };
  "query-block-jobs": { arguments: Nothing; returns: BlockJobInfo[] };
  "query-blockstats": { arguments: QueryBlockstats; returns: BlockStats[] };
  "query-commands": { arguments: Nothing; returns: CommandInfo[] };
  "query-jobs": { arguments: Nothing; returns: JobInfo[] };
  "query-named-block-nodes": { arguments: QueryNamedBlockNodes; returns: BlockDeviceInfo[] };
  "query-qmp-schema": { arguments: Nothing; returns: SchemaInfo[] };
  "query-status": { arguments: Nothing; returns: StatusInfo };
  "query-version": { arguments: Nothing; returns: VersionInfo };
  "query-xen-replication-status": { arguments: Nothing; returns: ReplicationStatus };
  stop: { arguments: Nothing; returns: Nothing };
  transaction: { arguments: Transaction; returns: Nothing };
  "x-blockdev-amend": { arguments: XBlockdevAmend; returns: Nothing };
  "x-blockdev-change": { arguments: XBlockdevChange; returns: Nothing };
  "x-debug-block-dirty-bitmap-sha256": { arguments: BlockDirtyBitmap; returns: BlockDirtyBitmapSha256 };
  "x-debug-query-block-graph": { arguments: Nothing; returns: XDbgBlockGraph };
  "xen-colo-do-checkpoint": { arguments: Nothing; returns: Nothing };
  "xen-set-replication": { arguments: XenSetReplication; returns: Nothing };
}

/** Events: what belongs to them. */
export interface Events {
  BLOCK_EXPORT_DELETED: BlockExportDeleted;
  BLOCK_IMAGE_CORRUPTED: BlockImageCorrupted;
  BLOCK_IO_ERROR: BlockIoError;
  BLOCK_JOB_CANCELLED: BlockJobCancelled;
  BLOCK_JOB_COMPLETED: BlockJobCompleted;
  BLOCK_JOB_ERROR: BlockJobError;
  BLOCK_JOB_PENDING: BlockJobPending;
  BLOCK_JOB_READY: BlockJobReady;
  BLOCK_WRITE_THRESHOLD: BlockWriteThreshold;
  DEVICE_DELETED: DeviceDeleted;
  JOB_STATUS_CHANGE: JobStatusChange;
  QUORUM_FAILURE: QuorumFailure;
  QUORUM_REPORT_BAD: QuorumReportBad;
  RESUME: undefined;
  SHUTDOWN: Shutdown;
  STOP: undefined;
  VSERPORT_CHANGE: VserportChange;
}

export interface Abort {
}

export type ActionCompletionMode = "individual" | "grouped";

export interface AuthZListFileProperties {
  filename: string;
  refresh?: boolean | undefined;
}

export interface AuthZListProperties {
  policy?: QAuthZListPolicy | undefined;
  rules?: QAuthZListRule[] | undefined;
}

export interface AuthZPAMProperties {
  service: string;
}

export interface AuthZSimpleProperties {
  identity: string;
}

export interface BackupPerf {
  "use-copy-range"?: boolean | undefined;
  "max-workers"?: Int | undefined;
  "max-chunk"?: Int | undefined;
  "min-cluster-size"?: Int | undefined;
}

export type BitmapSyncMode = "on-success" | "never" | "always";

export type BlkdebugEvent = "l1_update" | "l1_grow_alloc_table" | "l1_grow_write_table" | "l1_grow_activate_table" | "l2_load" | "l2_update" | "l2_update_compressed" | "l2_alloc_cow_read" | "l2_alloc_write" | "read_aio" | "read_backing_aio" | "read_compressed" | "write_aio" | "write_compressed" | "vmstate_load" | "vmstate_save" | "cow_read" | "cow_write" | "reftable_load" | "reftable_grow" | "reftable_update" | "refblock_load" | "refblock_update" | "refblock_update_part" | "refblock_alloc" | "refblock_alloc_hookup" | "refblock_alloc_write" | "refblock_alloc_write_blocks" | "refblock_alloc_write_table" | "refblock_alloc_switch_table" | "cluster_alloc" | "cluster_alloc_bytes" | "cluster_free" | "flush_to_os" | "flush_to_disk" | "pwritev_rmw_head" | "pwritev_rmw_after_head" | "pwritev_rmw_tail" | "pwritev_rmw_after_tail" | "pwritev" | "pwritev_zero" | "pwritev_done" | "empty_image_prepare" | "l1_shrink_write_table" | "l1_shrink_free_l2_clusters" | "cor_write" | "cluster_alloc_space" | "none";

export type BlkdebugIOType = "read" | "write" | "write-zeroes" | "discard" | "flush" | "block-status";

export interface BlkdebugInjectErrorOptions {
  event: BlkdebugEvent;
  state?: Int | undefined;
  iotype?: BlkdebugIOType | undefined;
  errno?: Int | undefined;
  sector?: Int | undefined;
  once?: boolean | undefined;
  immediately?: boolean | undefined;
}

export interface BlkdebugSetStateOptions {
  event: BlkdebugEvent;
  state?: Int | undefined;
  new_state: Int;
}

export interface BlockDeviceInfo {
  file: string;
  "node-name"?: string;
  ro: boolean;
  drv: string;
  backing_file?: string;
  backing_file_depth: bigint;
  children: BlockdevChild[];
  active: boolean;
  encrypted: boolean;
  detect_zeroes: BlockdevDetectZeroesOptions;
  bps: bigint;
  bps_rd: bigint;
  bps_wr: bigint;
  iops: bigint;
  iops_rd: bigint;
  iops_wr: bigint;
  image: ImageInfo;
  bps_max?: bigint;
  bps_rd_max?: bigint;
  bps_wr_max?: bigint;
  iops_max?: bigint;
  iops_rd_max?: bigint;
  iops_wr_max?: bigint;
  bps_max_length?: bigint;
  bps_rd_max_length?: bigint;
  bps_wr_max_length?: bigint;
  iops_max_length?: bigint;
  iops_rd_max_length?: bigint;
  iops_wr_max_length?: bigint;
  iops_size?: bigint;
  group?: string;
  cache: BlockdevCacheInfo;
  write_threshold: bigint;
  "dirty-bitmaps"?: BlockDirtyInfo[];
}

export type BlockDeviceIoStatus = "ok" | "failed" | "nospace";

export interface BlockDeviceStats {
  rd_bytes: bigint;
  wr_bytes: bigint;
  zone_append_bytes: bigint;
  unmap_bytes: bigint;
  rd_operations: bigint;
  wr_operations: bigint;
  zone_append_operations: bigint;
  flush_operations: bigint;
  unmap_operations: bigint;
  rd_total_time_ns: bigint;
  wr_total_time_ns: bigint;
  zone_append_total_time_ns: bigint;
  flush_total_time_ns: bigint;
  unmap_total_time_ns: bigint;
  wr_highest_offset: bigint;
  rd_merged: bigint;
  wr_merged: bigint;
  zone_append_merged: bigint;
  unmap_merged: bigint;
  idle_time_ns?: bigint;
  failed_rd_operations: bigint;
  failed_wr_operations: bigint;
  failed_zone_append_operations: bigint;
  failed_flush_operations: bigint;
  failed_unmap_operations: bigint;
  invalid_rd_operations: bigint;
  invalid_wr_operations: bigint;
  invalid_zone_append_operations: bigint;
  invalid_flush_operations: bigint;
  invalid_unmap_operations: bigint;
  account_invalid: boolean;
  account_failed: boolean;
  timed_stats: BlockDeviceTimedStats[];
  rd_latency_histogram?: BlockLatencyHistogramInfo;
  wr_latency_histogram?: BlockLatencyHistogramInfo;
  zone_append_latency_histogram?: BlockLatencyHistogramInfo;
  flush_latency_histogram?: BlockLatencyHistogramInfo;
}

export interface BlockDeviceTimedStats {
  interval_length: bigint;
  min_rd_latency_ns: bigint;
  max_rd_latency_ns: bigint;
  avg_rd_latency_ns: bigint;
  min_wr_latency_ns: bigint;
  max_wr_latency_ns: bigint;
  avg_wr_latency_ns: bigint;
  min_zone_append_latency_ns: bigint;
  max_zone_append_latency_ns: bigint;
  avg_zone_append_latency_ns: bigint;
  min_flush_latency_ns: bigint;
  max_flush_latency_ns: bigint;
  avg_flush_latency_ns: bigint;
  avg_rd_queue_depth: number;
  avg_wr_queue_depth: number;
  avg_zone_append_queue_depth: number;
}

export interface BlockDirtyBitmap {
  node: string;
  name: string;
}

export interface BlockDirtyBitmapAdd {
  node: string;
  name: string;
  granularity?: number | undefined;
  persistent?: boolean | undefined;
  disabled?: boolean | undefined;
}

export interface BlockDirtyBitmapMerge {
  node: string;
  target: string;
  bitmaps: BlockDirtyBitmapOrStr[];
}

export type BlockDirtyBitmapOrStr = string | BlockDirtyBitmap;

export interface BlockDirtyBitmapSha256 {
  sha256: string;
}

export interface BlockDirtyInfo {
  name?: string;
  count: bigint;
  granularity: number;
  recording: boolean;
  busy: boolean;
  persistent: boolean;
  inconsistent?: boolean;
}

export type BlockErrorAction = "ignore" | "report" | "stop";

export interface BlockExportDeleted {
  id: string;
}

export interface BlockImageCorrupted {
  device: string;
  "node-name"?: string;
  msg: string;
  offset?: bigint;
  size?: bigint;
  fatal: boolean;
}

export interface BlockInfo {
  device: string;
  qdev?: string;
  type: string;
  removable: boolean;
  locked: boolean;
  inserted?: BlockDeviceInfo;
  tray_open?: boolean;
  "io-status"?: BlockDeviceIoStatus;
}

export interface BlockIoError {
  "qom-path": string;
  device: string;
  "node-name"?: string;
  operation: IoOperationType;
  action: BlockErrorAction;
  nospace?: boolean;
  reason: string;
}

export interface BlockJobCancelled {
  type: JobType;
  device: string;
  len: bigint;
  offset: bigint;
  speed: bigint;
}

export interface BlockJobCompleted {
  type: JobType;
  device: string;
  len: bigint;
  offset: bigint;
  speed: bigint;
  error?: string;
}

export interface BlockJobError {
  device: string;
  operation: IoOperationType;
  action: BlockErrorAction;
}

export type BlockJobInfo = {
  device: string;
  len: bigint;
  offset: bigint;
  busy: boolean;
  paused: boolean;
  speed: bigint;
  "io-status": BlockDeviceIoStatus;
  ready: boolean;
  status: JobStatus;
  "auto-finalize": boolean;
  "auto-dismiss": boolean;
  error?: string;
} & (
  | ({ type: "mirror" } & BlockJobInfoMirror)
  | { type: "commit" | "stream" | "backup" | "create" | "amend" | "snapshot-load" | "snapshot-save" | "snapshot-delete" }
);

export interface BlockJobInfoMirror {
  "actively-synced": boolean;
}

export interface BlockJobPending {
  type: JobType;
  id: string;
}

export interface BlockJobReady {
  type: JobType;
  device: string;
  len: bigint;
  offset: bigint;
  speed: bigint;
}

export interface BlockLatencyHistogramInfo {
  boundaries: bigint[];
  bins: bigint[];
}

export interface BlockLatencyHistogramSet {
  id: string;
  boundaries?: Int[] | undefined;
  "boundaries-read"?: Int[] | undefined;
  "boundaries-write"?: Int[] | undefined;
  "boundaries-zap"?: Int[] | undefined;
  "boundaries-flush"?: Int[] | undefined;
}

export type BlockPermission = "consistent-read" | "write" | "write-unchanged" | "resize";

export interface BlockResize {
  device?: string | undefined;
  "node-name"?: string | undefined;
  size: Int;
}

export interface BlockSetWriteThreshold {
  "node-name": string;
  "write-threshold": Int;
}

export interface BlockStats {
  device?: string;
  qdev?: string;
  "node-name"?: string;
  stats: BlockDeviceStats;
  "driver-specific"?: BlockStatsSpecific;
  parent?: BlockStats;
  backing?: BlockStats;
}

export type BlockStatsSpecific = (
  | ({ driver: "file" } & BlockStatsSpecificFile)
  | ({ driver: "host_device" } & BlockStatsSpecificFile)
  | ({ driver: "nvme" } & BlockStatsSpecificNvme)
  | { driver: "blkdebug" | "blklogwrites" | "blkreplay" | "blkverify" | "bochs" | "cloop" | "compress" | "copy-before-write" | "copy-on-read" | "dmg" | "snapshot-access" | "ftp" | "ftps" | "gluster" | "host_cdrom" | "http" | "https" | "iscsi" | "luks" | "nbd" | "nfs" | "null-aio" | "null-co" | "parallels" | "preallocate" | "qcow" | "qcow2" | "qed" | "quorum" | "raw" | "rbd" | "replication" | "ssh" | "throttle" | "vdi" | "vhdx" | "vmdk" | "vpc" | "vvfat" }
);

export interface BlockStatsSpecificFile {
  "discard-nb-ok": bigint;
  "discard-nb-failed": bigint;
  "discard-bytes-ok": bigint;
}

export interface BlockStatsSpecificNvme {
  "completion-errors": bigint;
  "aligned-accesses": bigint;
  "unaligned-accesses": bigint;
}

export interface BlockWriteThreshold {
  "node-name": string;
  "amount-exceeded": bigint;
  "write-threshold": bigint;
}

export type BlockdevAioOptions = "threads" | "native" | "io_uring";

export type BlockdevAmendOptions = (
  | ({ driver: "luks" } & BlockdevAmendOptionsLUKS)
  | ({ driver: "qcow2" } & BlockdevAmendOptionsQcow2)
  | { driver: "blkdebug" | "blklogwrites" | "blkreplay" | "blkverify" | "bochs" | "cloop" | "compress" | "copy-before-write" | "copy-on-read" | "dmg" | "file" | "snapshot-access" | "ftp" | "ftps" | "gluster" | "host_cdrom" | "host_device" | "http" | "https" | "iscsi" | "nbd" | "nfs" | "null-aio" | "null-co" | "nvme" | "parallels" | "preallocate" | "qcow" | "qed" | "quorum" | "raw" | "rbd" | "replication" | "ssh" | "throttle" | "vdi" | "vhdx" | "vmdk" | "vpc" | "vvfat" }
);

export interface BlockdevAmendOptionsLUKS {
  state: QCryptoBlockLUKSKeyslotState;
  "new-secret"?: string | undefined;
  "old-secret"?: string | undefined;
  keyslot?: Int | undefined;
  "iter-time"?: Int | undefined;
  secret?: string | undefined;
}

export interface BlockdevAmendOptionsQcow2 {
  encrypt?: QCryptoBlockAmendOptions | undefined;
}

export interface BlockdevBackup {
  "job-id"?: string | undefined;
  device: string;
  sync: MirrorSyncMode;
  speed?: Int | undefined;
  bitmap?: string | undefined;
  "bitmap-mode"?: BitmapSyncMode | undefined;
  compress?: boolean | undefined;
  "on-source-error"?: BlockdevOnError | undefined;
  "on-target-error"?: BlockdevOnError | undefined;
  "on-cbw-error"?: OnCbwError | undefined;
  "auto-finalize"?: boolean | undefined;
  "auto-dismiss"?: boolean | undefined;
  "filter-node-name"?: string | undefined;
  "discard-source"?: boolean | undefined;
  /** Unstable. */
  "x-perf"?: BackupPerf | undefined;
  target: string;
}

export interface BlockdevCacheInfo {
  writeback: boolean;
  direct: boolean;
  "no-flush": boolean;
}

export interface BlockdevCacheOptions {
  direct?: boolean | undefined;
  "no-flush"?: boolean | undefined;
}

export interface BlockdevChild {
  child: string;
  "node-name": string;
}

export interface BlockdevCreate {
  "job-id": string;
  options: BlockdevCreateOptions;
}

export type BlockdevCreateOptions = (
  | ({ driver: "file" } & BlockdevCreateOptionsFile)
  | ({ driver: "gluster" } & BlockdevCreateOptionsGluster)
  | ({ driver: "luks" } & BlockdevCreateOptionsLUKS)
  | ({ driver: "nfs" } & BlockdevCreateOptionsNfs)
  | ({ driver: "parallels" } & BlockdevCreateOptionsParallels)
  | ({ driver: "qcow" } & BlockdevCreateOptionsQcow)
  | ({ driver: "qcow2" } & BlockdevCreateOptionsQcow2)
  | ({ driver: "qed" } & BlockdevCreateOptionsQed)
  | ({ driver: "rbd" } & BlockdevCreateOptionsRbd)
  | ({ driver: "ssh" } & BlockdevCreateOptionsSsh)
  | ({ driver: "vdi" } & BlockdevCreateOptionsVdi)
  | ({ driver: "vhdx" } & BlockdevCreateOptionsVhdx)
  | ({ driver: "vmdk" } & BlockdevCreateOptionsVmdk)
  | ({ driver: "vpc" } & BlockdevCreateOptionsVpc)
  | { driver: "blkdebug" | "blklogwrites" | "blkreplay" | "blkverify" | "bochs" | "cloop" | "compress" | "copy-before-write" | "copy-on-read" | "dmg" | "snapshot-access" | "ftp" | "ftps" | "host_cdrom" | "host_device" | "http" | "https" | "iscsi" | "nbd" | "null-aio" | "null-co" | "nvme" | "preallocate" | "quorum" | "raw" | "replication" | "throttle" | "vvfat" }
);

export interface BlockdevCreateOptionsFile {
  filename: string;
  size: Int;
  preallocation?: PreallocMode | undefined;
  nocow?: boolean | undefined;
  "extent-size-hint"?: Int | undefined;
}

export interface BlockdevCreateOptionsGluster {
  location: BlockdevOptionsGluster;
  size: Int;
  preallocation?: PreallocMode | undefined;
}

export interface BlockdevCreateOptionsLUKS {
  "key-secret"?: string | undefined;
  "cipher-alg"?: QCryptoCipherAlgo | undefined;
  "cipher-mode"?: QCryptoCipherMode | undefined;
  "ivgen-alg"?: QCryptoIVGenAlgo | undefined;
  "ivgen-hash-alg"?: QCryptoHashAlgo | undefined;
  "hash-alg"?: QCryptoHashAlgo | undefined;
  "iter-time"?: Int | undefined;
  file?: BlockdevRef | undefined;
  header?: BlockdevRef | undefined;
  size: Int;
  preallocation?: PreallocMode | undefined;
}

export interface BlockdevCreateOptionsNfs {
  location: BlockdevOptionsNfs;
  size: Int;
}

export interface BlockdevCreateOptionsParallels {
  file: BlockdevRef;
  size: Int;
  "cluster-size"?: Int | undefined;
}

export interface BlockdevCreateOptionsQcow {
  file: BlockdevRef;
  size: Int;
  "backing-file"?: string | undefined;
  encrypt?: QCryptoBlockCreateOptions | undefined;
}

export interface BlockdevCreateOptionsQcow2 {
  file: BlockdevRef;
  "data-file"?: BlockdevRef | undefined;
  "data-file-raw"?: boolean | undefined;
  "extended-l2"?: boolean | undefined;
  size: Int;
  version?: BlockdevQcow2Version | undefined;
  "backing-file"?: string | undefined;
  "backing-fmt"?: BlockdevDriver | undefined;
  encrypt?: QCryptoBlockCreateOptions | undefined;
  "cluster-size"?: Int | undefined;
  preallocation?: PreallocMode | undefined;
  "lazy-refcounts"?: boolean | undefined;
  "refcount-bits"?: Int | undefined;
  "compression-type"?: Qcow2CompressionType | undefined;
}

export interface BlockdevCreateOptionsQed {
  file: BlockdevRef;
  size: Int;
  "backing-file"?: string | undefined;
  "backing-fmt"?: BlockdevDriver | undefined;
  "cluster-size"?: Int | undefined;
  "table-size"?: Int | undefined;
}

export interface BlockdevCreateOptionsRbd {
  location: BlockdevOptionsRbd;
  size: Int;
  "cluster-size"?: Int | undefined;
  encrypt?: RbdEncryptionCreateOptions | undefined;
}

export interface BlockdevCreateOptionsSsh {
  location: BlockdevOptionsSsh;
  size: Int;
}

export interface BlockdevCreateOptionsVdi {
  file: BlockdevRef;
  size: Int;
  preallocation?: PreallocMode | undefined;
}

export interface BlockdevCreateOptionsVhdx {
  file: BlockdevRef;
  size: Int;
  "log-size"?: Int | undefined;
  "block-size"?: Int | undefined;
  subformat?: BlockdevVhdxSubformat | undefined;
  "block-state-zero"?: boolean | undefined;
}

export interface BlockdevCreateOptionsVmdk {
  file: BlockdevRef;
  size: Int;
  extents?: BlockdevRef[] | undefined;
  subformat?: BlockdevVmdkSubformat | undefined;
  "backing-file"?: string | undefined;
  "adapter-type"?: BlockdevVmdkAdapterType | undefined;
  hwversion?: string | undefined;
  toolsversion?: string | undefined;
  "zeroed-grain"?: boolean | undefined;
}

export interface BlockdevCreateOptionsVpc {
  file: BlockdevRef;
  size: Int;
  subformat?: BlockdevVpcSubformat | undefined;
  "force-size"?: boolean | undefined;
}

export interface BlockdevDel {
  "node-name": string;
}

export type BlockdevDetectZeroesOptions = "off" | "on" | "unmap";

export type BlockdevDiscardOptions = "ignore" | "unmap";

export type BlockdevDriver = "blkdebug" | "blklogwrites" | "blkreplay" | "blkverify" | "bochs" | "cloop" | "compress" | "copy-before-write" | "copy-on-read" | "dmg" | "file" | "snapshot-access" | "ftp" | "ftps" | "gluster" | "host_cdrom" | "host_device" | "http" | "https" | "iscsi" | "luks" | "nbd" | "nfs" | "null-aio" | "null-co" | "nvme" | "parallels" | "preallocate" | "qcow" | "qcow2" | "qed" | "quorum" | "raw" | "rbd" | "replication" | "ssh" | "throttle" | "vdi" | "vhdx" | "vmdk" | "vpc" | "vvfat";

export type BlockdevOnError = "report" | "ignore" | "enospc" | "stop" | "auto";

export type BlockdevOptions = {
  "node-name"?: string | undefined;
  discard?: BlockdevDiscardOptions | undefined;
  cache?: BlockdevCacheOptions | undefined;
  active?: boolean | undefined;
  "read-only"?: boolean | undefined;
  "auto-read-only"?: boolean | undefined;
  "force-share"?: boolean | undefined;
  "detect-zeroes"?: BlockdevDetectZeroesOptions | undefined;
} & (
  | ({ driver: "blkdebug" } & BlockdevOptionsBlkdebug)
  | ({ driver: "blklogwrites" } & BlockdevOptionsBlklogwrites)
  | ({ driver: "blkreplay" } & BlockdevOptionsBlkreplay)
  | ({ driver: "blkverify" } & BlockdevOptionsBlkverify)
  | ({ driver: "bochs" } & BlockdevOptionsGenericFormat)
  | ({ driver: "cloop" } & BlockdevOptionsGenericFormat)
  | ({ driver: "compress" } & BlockdevOptionsGenericFormat)
  | ({ driver: "copy-before-write" } & BlockdevOptionsCbw)
  | ({ driver: "copy-on-read" } & BlockdevOptionsCor)
  | ({ driver: "dmg" } & BlockdevOptionsGenericFormat)
  | ({ driver: "file" } & BlockdevOptionsFile)
  | ({ driver: "snapshot-access" } & BlockdevOptionsGenericFormat)
  | ({ driver: "ftp" } & BlockdevOptionsCurlFtp)
  | ({ driver: "ftps" } & BlockdevOptionsCurlFtps)
  | ({ driver: "gluster" } & BlockdevOptionsGluster)
  | ({ driver: "host_cdrom" } & BlockdevOptionsFile)
  | ({ driver: "host_device" } & BlockdevOptionsFile)
  | ({ driver: "http" } & BlockdevOptionsCurlHttp)
  | ({ driver: "https" } & BlockdevOptionsCurlHttps)
  | ({ driver: "iscsi" } & BlockdevOptionsIscsi)
  | ({ driver: "luks" } & BlockdevOptionsLUKS)
  | ({ driver: "nbd" } & BlockdevOptionsNbd)
  | ({ driver: "nfs" } & BlockdevOptionsNfs)
  | ({ driver: "null-aio" } & BlockdevOptionsNull)
  | ({ driver: "null-co" } & BlockdevOptionsNull)
  | ({ driver: "nvme" } & BlockdevOptionsNVMe)
  | ({ driver: "parallels" } & BlockdevOptionsGenericFormat)
  | ({ driver: "preallocate" } & BlockdevOptionsPreallocate)
  | ({ driver: "qcow" } & BlockdevOptionsQcow)
  | ({ driver: "qcow2" } & BlockdevOptionsQcow2)
  | ({ driver: "qed" } & BlockdevOptionsGenericCOWFormat)
  | ({ driver: "quorum" } & BlockdevOptionsQuorum)
  | ({ driver: "raw" } & BlockdevOptionsRaw)
  | ({ driver: "rbd" } & BlockdevOptionsRbd)
  | ({ driver: "replication" } & BlockdevOptionsReplication)
  | ({ driver: "ssh" } & BlockdevOptionsSsh)
  | ({ driver: "throttle" } & BlockdevOptionsThrottle)
  | ({ driver: "vdi" } & BlockdevOptionsGenericFormat)
  | ({ driver: "vhdx" } & BlockdevOptionsGenericFormat)
  | ({ driver: "vmdk" } & BlockdevOptionsGenericCOWFormat)
  | ({ driver: "vpc" } & BlockdevOptionsGenericFormat)
  | ({ driver: "vvfat" } & BlockdevOptionsVVFAT)
);

export interface BlockdevOptionsBlkdebug {
  image: BlockdevRef;
  config?: string | undefined;
  align?: Int | undefined;
  "max-transfer"?: number | undefined;
  "opt-write-zero"?: number | undefined;
  "max-write-zero"?: number | undefined;
  "opt-discard"?: number | undefined;
  "max-discard"?: number | undefined;
  "inject-error"?: BlkdebugInjectErrorOptions[] | undefined;
  "set-state"?: BlkdebugSetStateOptions[] | undefined;
  "take-child-perms"?: BlockPermission[] | undefined;
  "unshare-child-perms"?: BlockPermission[] | undefined;
}

export interface BlockdevOptionsBlklogwrites {
  file: BlockdevRef;
  log: BlockdevRef;
  "log-sector-size"?: number | undefined;
  "log-append"?: boolean | undefined;
  "log-super-update-interval"?: Int | undefined;
}

export interface BlockdevOptionsBlkreplay {
  image: BlockdevRef;
}

export interface BlockdevOptionsBlkverify {
  test: BlockdevRef;
  raw: BlockdevRef;
}

export interface BlockdevOptionsCbw {
  file: BlockdevRef;
  target: BlockdevRef;
  bitmap?: BlockDirtyBitmap | undefined;
  "on-cbw-error"?: OnCbwError | undefined;
  "cbw-timeout"?: number | undefined;
  "min-cluster-size"?: Int | undefined;
}

export interface BlockdevOptionsCor {
  file: BlockdevRef;
  bottom?: string | undefined;
}

export interface BlockdevOptionsCurlFtp {
  url: string;
  readahead?: Int | undefined;
  timeout?: Int | undefined;
  username?: string | undefined;
  "password-secret"?: string | undefined;
  "proxy-username"?: string | undefined;
  "proxy-password-secret"?: string | undefined;
}

export interface BlockdevOptionsCurlFtps {
  url: string;
  readahead?: Int | undefined;
  timeout?: Int | undefined;
  username?: string | undefined;
  "password-secret"?: string | undefined;
  "proxy-username"?: string | undefined;
  "proxy-password-secret"?: string | undefined;
  sslverify?: boolean | undefined;
}

export interface BlockdevOptionsCurlHttp {
  url: string;
  readahead?: Int | undefined;
  timeout?: Int | undefined;
  username?: string | undefined;
  "password-secret"?: string | undefined;
  "proxy-username"?: string | undefined;
  "proxy-password-secret"?: string | undefined;
  cookie?: string | undefined;
  "cookie-secret"?: string | undefined;
}

export interface BlockdevOptionsCurlHttps {
  url: string;
  readahead?: Int | undefined;
  timeout?: Int | undefined;
  username?: string | undefined;
  "password-secret"?: string | undefined;
  "proxy-username"?: string | undefined;
  "proxy-password-secret"?: string | undefined;
  cookie?: string | undefined;
  sslverify?: boolean | undefined;
  "cookie-secret"?: string | undefined;
}

export interface BlockdevOptionsFile {
  filename: string;
  "pr-manager"?: string | undefined;
  locking?: OnOffAuto | undefined;
  aio?: BlockdevAioOptions | undefined;
  "aio-max-batch"?: Int | undefined;
  "drop-cache"?: boolean | undefined;
  /** Unstable. */
  "x-check-cache-dropped"?: boolean | undefined;
}

export interface BlockdevOptionsGenericCOWFormat {
  file: BlockdevRef;
  backing?: BlockdevRefOrNull | undefined;
}

export interface BlockdevOptionsGenericFormat {
  file: BlockdevRef;
}

export interface BlockdevOptionsGluster {
  volume: string;
  path: string;
  server: SocketAddress[];
  debug?: Int | undefined;
  logfile?: string | undefined;
}

export interface BlockdevOptionsIscsi {
  transport: IscsiTransport;
  portal: string;
  target: string;
  lun?: Int | undefined;
  user?: string | undefined;
  "password-secret"?: string | undefined;
  "initiator-name"?: string | undefined;
  "header-digest"?: IscsiHeaderDigest | undefined;
  timeout?: Int | undefined;
}

export interface BlockdevOptionsLUKS {
  file: BlockdevRef;
  "key-secret"?: string | undefined;
  header?: BlockdevRef | undefined;
}

export interface BlockdevOptionsNVMe {
  device: string;
  namespace: Int;
}

export interface BlockdevOptionsNbd {
  server: SocketAddress;
  export?: string | undefined;
  "tls-creds"?: string | undefined;
  "tls-hostname"?: string | undefined;
  /** Unstable. */
  "x-dirty-bitmap"?: string | undefined;
  "reconnect-delay"?: number | undefined;
  "open-timeout"?: number | undefined;
}

export interface BlockdevOptionsNfs {
  server: NFSServer;
  path: string;
  user?: Int | undefined;
  group?: Int | undefined;
  "tcp-syn-count"?: Int | undefined;
  "readahead-size"?: Int | undefined;
  "page-cache-size"?: Int | undefined;
  debug?: Int | undefined;
}

export interface BlockdevOptionsNull {
  size?: Int | undefined;
  "latency-ns"?: Int | undefined;
  "read-zeroes"?: boolean | undefined;
}

export interface BlockdevOptionsPreallocate {
  file: BlockdevRef;
  "prealloc-align"?: Int | undefined;
  "prealloc-size"?: Int | undefined;
}

export interface BlockdevOptionsQcow {
  file: BlockdevRef;
  backing?: BlockdevRefOrNull | undefined;
  encrypt?: BlockdevQcowEncryption | undefined;
}

export interface BlockdevOptionsQcow2 {
  file: BlockdevRef;
  backing?: BlockdevRefOrNull | undefined;
  "lazy-refcounts"?: boolean | undefined;
  "pass-discard-request"?: boolean | undefined;
  "pass-discard-snapshot"?: boolean | undefined;
  "pass-discard-other"?: boolean | undefined;
  "discard-no-unref"?: boolean | undefined;
  "overlap-check"?: Qcow2OverlapChecks | undefined;
  "cache-size"?: Int | undefined;
  "l2-cache-size"?: Int | undefined;
  "l2-cache-entry-size"?: Int | undefined;
  "refcount-cache-size"?: Int | undefined;
  "cache-clean-interval"?: Int | undefined;
  encrypt?: BlockdevQcow2Encryption | undefined;
  "data-file"?: BlockdevRef | undefined;
}

export interface BlockdevOptionsQuorum {
  blkverify?: boolean | undefined;
  children: BlockdevRef[];
  "vote-threshold": Int;
  "rewrite-corrupted"?: boolean | undefined;
  "read-pattern"?: QuorumReadPattern | undefined;
}

export interface BlockdevOptionsRaw {
  file: BlockdevRef;
  offset?: Int | undefined;
  size?: Int | undefined;
}

export interface BlockdevOptionsRbd {
  pool: string;
  namespace?: string | undefined;
  image: string;
  conf?: string | undefined;
  snapshot?: string | undefined;
  encrypt?: RbdEncryptionOptions | undefined;
  user?: string | undefined;
  "auth-client-required"?: RbdAuthMode[] | undefined;
  "key-secret"?: string | undefined;
  server?: InetSocketAddressBase[] | undefined;
}

export interface BlockdevOptionsReplication {
  file: BlockdevRef;
  mode: ReplicationMode;
  "top-id"?: string | undefined;
}

export interface BlockdevOptionsSsh {
  server: InetSocketAddress;
  path: string;
  user?: string | undefined;
  "host-key-check"?: SshHostKeyCheck | undefined;
}

export interface BlockdevOptionsThrottle {
  "throttle-group": string;
  file: BlockdevRef;
}

export interface BlockdevOptionsVVFAT {
  dir: string;
  "fat-type"?: Int | undefined;
  floppy?: boolean | undefined;
  label?: string | undefined;
  rw?: boolean | undefined;
}

export type BlockdevQcow2Encryption = (
  | ({ format: "aes" } & QCryptoBlockOptionsQCow)
  | ({ format: "luks" } & QCryptoBlockOptionsLUKS)
);

export type BlockdevQcow2Version = "v2" | "v3";

export type BlockdevQcowEncryption = (
  | ({ format: "aes" } & QCryptoBlockOptionsQCow)
);

export type BlockdevRef = BlockdevOptions | string;

export type BlockdevRefOrNull = BlockdevOptions | string | null;

export interface BlockdevReopen {
  options: BlockdevOptions[];
}

export interface BlockdevSetActive {
  "node-name"?: string | undefined;
  active: boolean;
}

export interface BlockdevSnapshot {
  node: string;
  overlay: string;
}

export interface BlockdevSnapshotDeleteInternalSync {
  device: string;
  id?: string | undefined;
  name?: string | undefined;
}

export interface BlockdevSnapshotInternal {
  device: string;
  name: string;
}

export interface BlockdevSnapshotSync {
  device?: string | undefined;
  "node-name"?: string | undefined;
  "snapshot-file": string;
  "snapshot-node-name"?: string | undefined;
  format?: string | undefined;
  mode?: NewImageMode | undefined;
}

export type BlockdevVhdxSubformat = "dynamic" | "fixed";

export type BlockdevVmdkAdapterType = "ide" | "buslogic" | "lsilogic" | "legacyESX";

export type BlockdevVmdkSubformat = "monolithicSparse" | "monolithicFlat" | "twoGbMaxExtentSparse" | "twoGbMaxExtentFlat" | "streamOptimized";

export type BlockdevVpcSubformat = "dynamic" | "fixed";

export interface ChangeBackingFile {
  device: string;
  "image-node-name": string;
  "backing-file": string;
}

export interface CommandInfo {
  name: string;
}

export interface DeviceAdd {
  id: string;
  "node-name": string;
  rerror?: BlockdevOnError | undefined;
  werror?: BlockdevOnError | undefined;
  "read-only"?: boolean | undefined;
  "share-rw"?: boolean | undefined;
  "account-invalid"?: boolean | undefined;
  "account-failed"?: boolean | undefined;
  "stats-intervals"?: number[] | undefined;
}

export interface DeviceDel {
  id: string;
}

export interface DeviceDeleted {
  device?: string;
  path: string;
}

export interface DriveBackup {
  "job-id"?: string | undefined;
  device: string;
  sync: MirrorSyncMode;
  speed?: Int | undefined;
  bitmap?: string | undefined;
  "bitmap-mode"?: BitmapSyncMode | undefined;
  compress?: boolean | undefined;
  "on-source-error"?: BlockdevOnError | undefined;
  "on-target-error"?: BlockdevOnError | undefined;
  "on-cbw-error"?: OnCbwError | undefined;
  "auto-finalize"?: boolean | undefined;
  "auto-dismiss"?: boolean | undefined;
  "filter-node-name"?: string | undefined;
  "discard-source"?: boolean | undefined;
  /** Unstable. */
  "x-perf"?: BackupPerf | undefined;
  target: string;
  format?: string | undefined;
  mode?: NewImageMode | undefined;
}

export interface FdSocketAddress {
  str: string;
}

export interface ImageInfo {
  compressed?: boolean;
  "backing-filename-format"?: string;
  snapshots?: SnapshotInfo[];
  "virtual-size": bigint;
  filename: string;
  "cluster-size"?: bigint;
  format: string;
  "actual-size"?: bigint;
  "format-specific"?: ImageInfoSpecific;
  "full-backing-filename"?: string;
  encrypted?: boolean;
  "backing-filename"?: string;
  "dirty-flag"?: boolean;
  "backing-image"?: ImageInfo;
}

export type ImageInfoSpecific = (
  | ({ type: "qcow2" } & {
  data: ImageInfoSpecificQCow2;
})
  | ({ type: "vmdk" } & {
  data: ImageInfoSpecificVmdk;
})
  | ({ type: "luks" } & {
  data: QCryptoBlockInfoLUKS;
})
  | ({ type: "rbd" } & {
  data: ImageInfoSpecificRbd;
})
  | ({ type: "file" } & {
  data: ImageInfoSpecificFile;
})
);

export interface ImageInfoSpecificFile {
  "extent-size-hint"?: bigint;
}

export interface ImageInfoSpecificQCow2 {
  compat: string;
  "compression-type": Qcow2CompressionType;
  "lazy-refcounts"?: boolean;
  bitmaps?: Qcow2BitmapInfo[];
  "refcount-bits": bigint;
  "data-file"?: string;
  encrypt?: ImageInfoSpecificQCow2Encryption;
  "data-file-raw"?: boolean;
  corrupt?: boolean;
  "extended-l2"?: boolean;
}

export type ImageInfoSpecificQCow2Encryption = (
  | ({ format: "luks" } & QCryptoBlockInfoLUKS)
  | { format: "aes" }
);

export interface ImageInfoSpecificRbd {
  "encryption-format"?: RbdImageEncryptionFormat;
}

export interface ImageInfoSpecificVmdk {
  "create-type": string;
  cid: bigint;
  "parent-cid": bigint;
  extents: VmdkExtentInfo[];
}

export interface InetSocketAddress {
  host: string;
  port: string;
  numeric?: boolean | undefined;
  to?: number | undefined;
  ipv4?: boolean | undefined;
  ipv6?: boolean | undefined;
  "keep-alive"?: boolean | undefined;
  mptcp?: boolean | undefined;
}

export interface InetSocketAddressBase {
  host: string;
  port: string;
}

export type IoOperationType = "read" | "write";

export interface IothreadProperties {
  "aio-max-batch"?: Int | undefined;
  "thread-pool-min"?: Int | undefined;
  "thread-pool-max"?: Int | undefined;
  "poll-max-ns"?: Int | undefined;
  "poll-grow"?: Int | undefined;
  "poll-shrink"?: Int | undefined;
}

export type IscsiHeaderDigest = "crc32c" | "none" | "crc32c-none" | "none-crc32c";

export type IscsiTransport = "tcp" | "iser";

export type JSONType = "string" | "number" | "int" | "boolean" | "null" | "object" | "array" | "value";

export interface JobCancel {
  id: string;
}

export interface JobComplete {
  id: string;
}

export interface JobDismiss {
  id: string;
}

export interface JobFinalize {
  id: string;
}

export interface JobInfo {
  id: string;
  type: JobType;
  status: JobStatus;
  "current-progress": bigint;
  "total-progress": bigint;
  error?: string;
}

export interface JobPause {
  id: string;
}

export interface JobResume {
  id: string;
}

export type JobStatus = "undefined" | "created" | "running" | "paused" | "ready" | "standby" | "waiting" | "pending" | "aborting" | "concluded" | "null";

export interface JobStatusChange {
  id: string;
  status: JobStatus;
}

export type JobType = "commit" | "stream" | "mirror" | "backup" | "create" | "amend" | "snapshot-load" | "snapshot-save" | "snapshot-delete";

export interface MainLoopProperties {
  "aio-max-batch"?: Int | undefined;
  "thread-pool-min"?: Int | undefined;
  "thread-pool-max"?: Int | undefined;
}

export type MirrorSyncMode = "top" | "full" | "none" | "incremental" | "bitmap";

export interface NFSServer {
  type: NFSTransport;
  host: string;
}

export type NFSTransport = "inet";

export type NewImageMode = "existing" | "absolute-paths";

export interface ObjectDel {
  id: string;
}

export type ObjectOptions = {
  id: string;
} & (
  | ({ "qom-type": "authz-list" } & AuthZListProperties)
  | ({ "qom-type": "authz-listfile" } & AuthZListFileProperties)
  | ({ "qom-type": "authz-pam" } & AuthZPAMProperties)
  | ({ "qom-type": "authz-simple" } & AuthZSimpleProperties)
  | ({ "qom-type": "iothread" } & IothreadProperties)
  | ({ "qom-type": "main-loop" } & MainLoopProperties)
  | ({ "qom-type": "pr-manager-helper" } & PrManagerHelperProperties)
  | ({ "qom-type": "secret" } & SecretProperties)
  | ({ "qom-type": "secret_keyring" } & SecretKeyringProperties)
  | ({ "qom-type": "thread-context" } & ThreadContextProperties)
  | ({ "qom-type": "throttle-group" } & ThrottleGroupProperties)
  | ({ "qom-type": "tls-creds-anon" } & TlsCredsAnonProperties)
  | ({ "qom-type": "tls-creds-psk" } & TlsCredsPskProperties)
  | ({ "qom-type": "tls-creds-x509" } & TlsCredsX509Properties)
);

export type OnCbwError = "break-guest-write" | "break-snapshot";

export type OnOffAuto = "auto" | "on" | "off";

export interface PrManagerHelperProperties {
  path: string;
}

export type PreallocMode = "off" | "metadata" | "falloc" | "full";

export type QAuthZListFormat = "exact" | "glob";

export type QAuthZListPolicy = "deny" | "allow";

export interface QAuthZListRule {
  match: string;
  policy: QAuthZListPolicy;
  format?: QAuthZListFormat | undefined;
}

export type QCryptoBlockAmendOptions = (
  | ({ format: "luks" } & QCryptoBlockAmendOptionsLUKS)
  | { format: "qcow" }
);

export interface QCryptoBlockAmendOptionsLUKS {
  state: QCryptoBlockLUKSKeyslotState;
  "new-secret"?: string | undefined;
  "old-secret"?: string | undefined;
  keyslot?: Int | undefined;
  "iter-time"?: Int | undefined;
  secret?: string | undefined;
}

export type QCryptoBlockCreateOptions = (
  | ({ format: "qcow" } & QCryptoBlockOptionsQCow)
  | ({ format: "luks" } & QCryptoBlockCreateOptionsLUKS)
);

export interface QCryptoBlockCreateOptionsLUKS {
  "key-secret"?: string | undefined;
  "cipher-alg"?: QCryptoCipherAlgo | undefined;
  "cipher-mode"?: QCryptoCipherMode | undefined;
  "ivgen-alg"?: QCryptoIVGenAlgo | undefined;
  "ivgen-hash-alg"?: QCryptoHashAlgo | undefined;
  "hash-alg"?: QCryptoHashAlgo | undefined;
  "iter-time"?: Int | undefined;
}

export interface QCryptoBlockInfoLUKS {
  "ivgen-alg": QCryptoIVGenAlgo;
  "detached-header": boolean;
  "hash-alg": QCryptoHashAlgo;
  "cipher-alg": QCryptoCipherAlgo;
  uuid: string;
  "ivgen-hash-alg"?: QCryptoHashAlgo;
  "cipher-mode": QCryptoCipherMode;
  slots: QCryptoBlockInfoLUKSSlot[];
  "payload-offset": bigint;
  "master-key-iters": bigint;
}

export interface QCryptoBlockInfoLUKSSlot {
  active: boolean;
  iters?: bigint;
  "key-offset": bigint;
  stripes?: bigint;
}

export type QCryptoBlockLUKSKeyslotState = "active" | "inactive";

export interface QCryptoBlockOptionsLUKS {
  "key-secret"?: string | undefined;
}

export interface QCryptoBlockOptionsQCow {
  "key-secret"?: string | undefined;
}

export type QCryptoCipherAlgo = "aes-128" | "aes-192" | "aes-256" | "des" | "3des" | "cast5-128" | "serpent-128" | "serpent-192" | "serpent-256" | "twofish-128" | "twofish-192" | "twofish-256" | "sm4";

export type QCryptoCipherMode = "ecb" | "cbc" | "xts" | "ctr";

export type QCryptoHashAlgo = "md5" | "sha1" | "sha224" | "sha256" | "sha384" | "sha512" | "ripemd160" | "sm3";

export type QCryptoIVGenAlgo = "plain" | "plain64" | "essiv";

export type QCryptoSecretFormat = "raw" | "base64";

export type QCryptoTLSCredsEndpoint = "client" | "server";

export type QMPCapability = "oob";

export interface Qcow2BitmapInfo {
  flags: Qcow2BitmapInfoFlags[];
  name: string;
  granularity: number;
}

export type Qcow2BitmapInfoFlags = "in-use" | "auto";

export type Qcow2CompressionType = "zlib" | "zstd";

export interface Qcow2OverlapCheckFlags {
  template?: Qcow2OverlapCheckMode | undefined;
  "main-header"?: boolean | undefined;
  "active-l1"?: boolean | undefined;
  "active-l2"?: boolean | undefined;
  "refcount-table"?: boolean | undefined;
  "refcount-block"?: boolean | undefined;
  "snapshot-table"?: boolean | undefined;
  "inactive-l1"?: boolean | undefined;
  "inactive-l2"?: boolean | undefined;
  "bitmap-directory"?: boolean | undefined;
}

export type Qcow2OverlapCheckMode = "none" | "constant" | "cached" | "all";

export type Qcow2OverlapChecks = Qcow2OverlapCheckFlags | Qcow2OverlapCheckMode;

export interface QmpCapabilities {
  enable?: QMPCapability[] | undefined;
}

export interface QueryBlockstats {
  "query-nodes"?: boolean | undefined;
}

export interface QueryNamedBlockNodes {
  flat?: boolean | undefined;
}

export interface QuorumFailure {
  reference: string;
  "sector-num": bigint;
  "sectors-count": bigint;
}

export type QuorumOpType = "read" | "write" | "flush";

export type QuorumReadPattern = "quorum" | "fifo";

export interface QuorumReportBad {
  type: QuorumOpType;
  error?: string;
  "node-name": string;
  "sector-num": bigint;
  "sectors-count": bigint;
}

export type RbdAuthMode = "cephx" | "none";

export type RbdEncryptionCreateOptions = (
  | ({ format: "luks" } & RbdEncryptionCreateOptionsLUKS)
  | ({ format: "luks2" } & RbdEncryptionCreateOptionsLUKS2)
  | { format: "luks-any" }
);

export interface RbdEncryptionCreateOptionsLUKS {
  "key-secret": string;
  "cipher-alg"?: QCryptoCipherAlgo | undefined;
}

export interface RbdEncryptionCreateOptionsLUKS2 {
  "key-secret": string;
  "cipher-alg"?: QCryptoCipherAlgo | undefined;
}

export type RbdEncryptionOptions = {
  parent?: RbdEncryptionOptions | undefined;
} & (
  | ({ format: "luks" } & RbdEncryptionOptionsLUKS)
  | ({ format: "luks2" } & RbdEncryptionOptionsLUKS2)
  | ({ format: "luks-any" } & RbdEncryptionOptionsLUKSAny)
);

export interface RbdEncryptionOptionsLUKS {
  "key-secret": string;
}

export interface RbdEncryptionOptionsLUKS2 {
  "key-secret": string;
}

export interface RbdEncryptionOptionsLUKSAny {
  "key-secret": string;
}

export type RbdImageEncryptionFormat = "luks" | "luks2" | "luks-any";

export type ReplicationMode = "primary" | "secondary";

export interface ReplicationStatus {
  error: boolean;
  desc?: string;
}

export type RunState = "debug" | "inmigrate" | "internal-error" | "io-error" | "paused" | "postmigrate" | "prelaunch" | "finish-migrate" | "restore-vm" | "running" | "save-vm" | "shutdown" | "suspended" | "watchdog" | "guest-panicked" | "colo";

export type SchemaInfo = {
  name: string;
  features?: string[];
} & (
  | ({ "meta-type": "builtin" } & SchemaInfoBuiltin)
  | ({ "meta-type": "enum" } & SchemaInfoEnum)
  | ({ "meta-type": "array" } & SchemaInfoArray)
  | ({ "meta-type": "object" } & SchemaInfoObject)
  | ({ "meta-type": "alternate" } & SchemaInfoAlternate)
  | ({ "meta-type": "command" } & SchemaInfoCommand)
  | ({ "meta-type": "event" } & SchemaInfoEvent)
);

export interface SchemaInfoAlternate {
  members: SchemaInfoAlternateMember[];
}

export interface SchemaInfoAlternateMember {
  type: string;
}

export interface SchemaInfoArray {
  "element-type": string;
}

export interface SchemaInfoBuiltin {
  "json-type": JSONType;
}

export interface SchemaInfoCommand {
  "arg-type": string;
  "ret-type": string;
  "allow-oob"?: boolean;
}

export interface SchemaInfoEnum {
  members: SchemaInfoEnumMember[];
  /** @deprecated */
  values: string[];
}

export interface SchemaInfoEnumMember {
  name: string;
  features?: string[];
}

export interface SchemaInfoEvent {
  "arg-type": string;
}

export interface SchemaInfoObject {
  members: SchemaInfoObjectMember[];
  tag?: string;
  variants?: SchemaInfoObjectVariant[];
}

export interface SchemaInfoObjectMember {
  name: string;
  type: string;
  default?: unknown;
  features?: string[];
}

export interface SchemaInfoObjectVariant {
  case: string;
  type: string;
}

export interface SecretKeyringProperties {
  format?: QCryptoSecretFormat | undefined;
  keyid?: string | undefined;
  iv?: string | undefined;
  serial: number;
}

export interface SecretProperties {
  format?: QCryptoSecretFormat | undefined;
  keyid?: string | undefined;
  iv?: string | undefined;
  data?: string | undefined;
  file?: string | undefined;
}

export interface Shutdown {
  guest: boolean;
  reason: ShutdownCause;
}

export type ShutdownCause = "none" | "host-error" | "host-qmp-quit" | "host-qmp-system-reset" | "host-signal" | "host-ui" | "guest-shutdown" | "guest-reset" | "guest-panic" | "subsystem-reset" | "snapshot-load";

export interface SnapshotInfo {
  icount?: bigint;
  "vm-clock-nsec": bigint;
  name: string;
  "date-sec": bigint;
  "date-nsec": bigint;
  "vm-clock-sec": bigint;
  id: string;
  "vm-state-size": bigint;
}

export type SocketAddress = (
  | ({ type: "inet" } & InetSocketAddress)
  | ({ type: "unix" } & UnixSocketAddress)
  | ({ type: "vsock" } & VsockSocketAddress)
  | ({ type: "fd" } & FdSocketAddress)
);

export type SshHostKeyCheck = (
  | ({ mode: "hash" } & SshHostKeyHash)
  | { mode: "none" | "known_hosts" }
);

export type SshHostKeyCheckHashType = "md5" | "sha1" | "sha256";

export interface SshHostKeyHash {
  type: SshHostKeyCheckHashType;
  hash: string;
}

export interface StatusInfo {
  running: boolean;
  status: RunState;
}

export interface ThreadContextProperties {
  "cpu-affinity"?: number[] | undefined;
  "node-affinity"?: number[] | undefined;
}

export interface ThrottleGroupProperties {
  limits?: ThrottleLimits | undefined;
  /** Unstable. */
  "x-iops-total"?: Int | undefined;
  /** Unstable. */
  "x-iops-total-max"?: Int | undefined;
  /** Unstable. */
  "x-iops-total-max-length"?: Int | undefined;
  /** Unstable. */
  "x-iops-read"?: Int | undefined;
  /** Unstable. */
  "x-iops-read-max"?: Int | undefined;
  /** Unstable. */
  "x-iops-read-max-length"?: Int | undefined;
  /** Unstable. */
  "x-iops-write"?: Int | undefined;
  /** Unstable. */
  "x-iops-write-max"?: Int | undefined;
  /** Unstable. */
  "x-iops-write-max-length"?: Int | undefined;
  /** Unstable. */
  "x-bps-total"?: Int | undefined;
  /** Unstable. */
  "x-bps-total-max"?: Int | undefined;
  /** Unstable. */
  "x-bps-total-max-length"?: Int | undefined;
  /** Unstable. */
  "x-bps-read"?: Int | undefined;
  /** Unstable. */
  "x-bps-read-max"?: Int | undefined;
  /** Unstable. */
  "x-bps-read-max-length"?: Int | undefined;
  /** Unstable. */
  "x-bps-write"?: Int | undefined;
  /** Unstable. */
  "x-bps-write-max"?: Int | undefined;
  /** Unstable. */
  "x-bps-write-max-length"?: Int | undefined;
  /** Unstable. */
  "x-iops-size"?: Int | undefined;
}

export interface ThrottleLimits {
  "iops-total"?: Int | undefined;
  "iops-total-max"?: Int | undefined;
  "iops-total-max-length"?: Int | undefined;
  "iops-read"?: Int | undefined;
  "iops-read-max"?: Int | undefined;
  "iops-read-max-length"?: Int | undefined;
  "iops-write"?: Int | undefined;
  "iops-write-max"?: Int | undefined;
  "iops-write-max-length"?: Int | undefined;
  "bps-total"?: Int | undefined;
  "bps-total-max"?: Int | undefined;
  "bps-total-max-length"?: Int | undefined;
  "bps-read"?: Int | undefined;
  "bps-read-max"?: Int | undefined;
  "bps-read-max-length"?: Int | undefined;
  "bps-write"?: Int | undefined;
  "bps-write-max"?: Int | undefined;
  "bps-write-max-length"?: Int | undefined;
  "iops-size"?: Int | undefined;
}

export interface TlsCredsAnonProperties {
  "verify-peer"?: boolean | undefined;
  dir?: string | undefined;
  endpoint?: QCryptoTLSCredsEndpoint | undefined;
  priority?: string | undefined;
}

export interface TlsCredsPskProperties {
  "verify-peer"?: boolean | undefined;
  dir?: string | undefined;
  endpoint?: QCryptoTLSCredsEndpoint | undefined;
  priority?: string | undefined;
  username?: string | undefined;
}

export interface TlsCredsX509Properties {
  "verify-peer"?: boolean | undefined;
  dir?: string | undefined;
  endpoint?: QCryptoTLSCredsEndpoint | undefined;
  priority?: string | undefined;
  "sanity-check"?: boolean | undefined;
  passwordid?: string | undefined;
}

export interface Transaction {
  actions: TransactionAction[];
  properties?: TransactionProperties | undefined;
}

export type TransactionAction = (
  | ({ type: "abort" } & {
  data: Abort;
})
  | ({ type: "block-dirty-bitmap-add" } & {
  data: BlockDirtyBitmapAdd;
})
  | ({ type: "block-dirty-bitmap-remove" } & {
  data: BlockDirtyBitmap;
})
  | ({ type: "block-dirty-bitmap-clear" } & {
  data: BlockDirtyBitmap;
})
  | ({ type: "block-dirty-bitmap-enable" } & {
  data: BlockDirtyBitmap;
})
  | ({ type: "block-dirty-bitmap-disable" } & {
  data: BlockDirtyBitmap;
})
  | ({ type: "block-dirty-bitmap-merge" } & {
  data: BlockDirtyBitmapMerge;
})
  | ({ type: "blockdev-backup" } & {
  data: BlockdevBackup;
})
  | ({ type: "blockdev-snapshot" } & {
  data: BlockdevSnapshot;
})
  | ({ type: "blockdev-snapshot-internal-sync" } & {
  data: BlockdevSnapshotInternal;
})
  | ({ type: "blockdev-snapshot-sync" } & {
  data: BlockdevSnapshotSync;
})
  | ({ type: "drive-backup" } & {
  data: DriveBackup;
})
);

export interface TransactionProperties {
  "completion-mode"?: ActionCompletionMode | undefined;
}

export interface UnixSocketAddress {
  path: string;
  abstract?: boolean | undefined;
  tight?: boolean | undefined;
}

export interface VersionInfo {
  qemu: VersionTriple;
  package: string;
}

export interface VersionTriple {
  major: bigint;
  minor: bigint;
  micro: bigint;
}

export interface VmdkExtentInfo {
  filename: string;
  format: string;
  "virtual-size": bigint;
  "cluster-size"?: bigint;
  compressed?: boolean;
}

export interface VserportChange {
  id: string;
  open: boolean;
}

export interface VsockSocketAddress {
  cid: string;
  port: string;
}

export interface XBlockdevAmend {
  "job-id": string;
  "node-name": string;
  options: BlockdevAmendOptions;
  force?: boolean | undefined;
}

export interface XBlockdevChange {
  parent: string;
  child?: string | undefined;
  node?: string | undefined;
}

export interface XDbgBlockGraph {
  nodes: XDbgBlockGraphNode[];
  edges: XDbgBlockGraphEdge[];
}

export interface XDbgBlockGraphEdge {
  parent: bigint;
  child: bigint;
  name: string;
  perm: BlockPermission[];
  "shared-perm": BlockPermission[];
}

export interface XDbgBlockGraphNode {
  id: bigint;
  type: XDbgBlockGraphNodeType;
  name: string;
}

export type XDbgBlockGraphNodeType = "block-backend" | "block-job" | "block-driver";

export interface XenSetReplication {
  enable: boolean;
  primary: boolean;
  failover?: boolean | undefined;
}
