PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE attachment (
            machine TEXT NOT NULL REFERENCES machine (id) ON DELETE CASCADE,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            incarnation INTEGER NOT NULL,
            spec BLOB NOT NULL,
            wanted INTEGER NOT NULL,
            changed_at INTEGER NOT NULL,
            target TEXT NOT NULL,
            mac TEXT NOT NULL,
            serial TEXT NOT NULL,
            port INTEGER NOT NULL,
            backing TEXT,
            problem TEXT NOT NULL,
            problem_advice TEXT NOT NULL,
            problem_at INTEGER NOT NULL,
            PRIMARY KEY (machine, kind, name, incarnation)
        ) STRICT
        ;
INSERT INTO "attachment" VALUES('m1','nic','n',1,X'0A016E',1,10,'','02:00:00:00:00:01','',2,'{"handle": "h", "kind": "network", "network": "lan", "type": "NicBackend"}','','',0);
INSERT INTO "attachment" VALUES('m1','volume','v',1,X'0A01762200',1,10,'vda','','s',0,'{"backing": {"format": "raw", "identity": {"inode": 1, "mtime_ns": 2, "size": 3}, "path": "/b"}, "format": "qcow2", "handle": "h", "path": "/d.qcow2", "read_only": true, "size": 512, "type": "DiskSource"}','p','a',8);
CREATE TABLE event (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            machine TEXT NOT NULL,
            time INTEGER NOT NULL,
            kind TEXT NOT NULL,
            reason TEXT NOT NULL,
            message TEXT NOT NULL,
            took INTEGER NOT NULL
        ) STRICT
        ;
CREATE TABLE gone (machine TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT;
CREATE TABLE machine (
            id TEXT PRIMARY KEY,
            uid TEXT,
            namespace TEXT,
            name TEXT,
            labels TEXT NOT NULL,
            annotations TEXT NOT NULL,
            spec BLOB NOT NULL,
            class TEXT NOT NULL,
            generation INTEGER NOT NULL,
            created_at INTEGER NOT NULL,
            deleted_at INTEGER NOT NULL,
            power_at INTEGER NOT NULL,
            status BLOB NOT NULL,
            observed_generation INTEGER NOT NULL,
            profile TEXT,
            run TEXT NOT NULL,
            stop_event TEXT,
            reasons TEXT NOT NULL,
            frame BLOB NOT NULL
        ) STRICT
        ;
INSERT INTO "machine" VALUES('m1','u','ns','n','{"machinepoollet.spheric.cloud/machine-name": "n", "machinepoollet.spheric.cloud/machine-namespace": "ns", "machinepoollet.spheric.cloud/machine-uid": "u", "\u00e9": "\t"}','{"": "", "a": "\ud83d\ude00"}',X'08011200220200FF','{"cpu_millis": 10, "memory_bytes": 20, "name": "c", "policy": {"firmware": "uefi", "root_disk_bytes": 30}}',4,10,99,50,X'080310011A0169',3,'{"cpu_millis": 1500, "cpu_mode": "maximum", "cpu_model": "", "domain_type": "qemu", "emulator": "/qemu", "firmware": "uefi", "layout": 1, "loader": "/ovmf", "loader_format": "raw", "machine_type": "pc-q35-7.2", "memory_bytes": 1073741824, "nvram_template": "/vars", "ports": 24, "vcpus": 2}','{"boot_id": "b", "error": "e", "failures": 6, "last_press_at": 3, "not_before": 7, "pressed_at": 2, "resumed_at": 4, "started_at": 1, "stopped": "guest", "stopped_at": 5, "uuid": "u"}','{"at": 77, "shutdown": "guest", "stopped": "shutdown"}','[{"code": "code", "message": "message", "advice": "advice", "since": 5, "told": true}, {"code": "c2", "message": "m2", "advice": "", "since": 0, "told": false}]',X'0AB9010A026D3112090A01611204F09F988012040A0012001A340A2E6D616368696E65706F6F6C6C65742E737068657269632E636C6F75642F6D616368696E652D6E616D65737061636512026E731A2E0A296D616368696E65706F6F6C6C65742E737068657269632E636C6F75642F6D616368696E652D6E616D6512016E1A2D0A286D616368696E65706F6F6C6C65742E737068657269632E636C6F75642F6D616368696E652D7569641201751A070A02C3A91201092004280A3063120808011200220200FF1A07080310011A0169');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "meta" VALUES('instance','e676128d-32fd-483f-b0cf-eba8a42381ad');
CREATE UNIQUE INDEX machine_uid ON machine (uid)
        WHERE uid IS NOT NULL AND namespace IS NOT NULL AND name IS NOT NULL
        ;
CREATE INDEX attachment_mac ON attachment (mac) WHERE mac <> '';
CREATE INDEX event_machine ON event (machine, id);
CREATE INDEX gone_at ON gone (at);
DELETE FROM "sqlite_sequence";
COMMIT;
