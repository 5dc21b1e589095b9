# Sourced by `up` and `database`: starting and stopping daemons, and MariaDB's options. The caller has made $dir.
# All daemons run as www-data if the caller is root, otherwise as the caller.

fail() { echo "${0##*/}: $*" >&2; exit 1; }

declare -A pids=() # name of a daemon -> its process id

mkdir "$dir/logs"

# unprivileged COMMAND…: as www-data when we are root. A daemon started so gets TERM when this script is killed outright.
if ((EUID == 0)); then
	chown www-data:www-data "$dir" "$dir/logs"
	# setpriv sets the death signal after it has changed the user, which would clear it.
	privileges=(setpriv --reuid=www-data --regid=www-data --init-groups --pdeathsig TERM)
else
	privileges=(setpriv --pdeathsig TERM)
fi
unprivileged() { "${privileges[@]}" -- "$@" </dev/null; }

start() { # NAME COMMAND…
	local name=$1
	shift
	"${privileges[@]}" -- "$@" </dev/null >>"$dir/logs/$name.log" 2>&1 &
	pids[$name]=$!
}

wait_for() { # NAME CONDITION…: until the condition holds, as long as the daemon lives
	local name=$1
	shift
	for ((i = 0; i < 2400; i++)); do
		kill -0 "${pids[$name]}" 2>/dev/null || return 1
		"$@" 2>/dev/null && return 0
		sleep 0.05
	done
	return 1
}

stop() { # NAME [SIGNAL]: TERM, and after a minute KILL
	local pid=${pids[$1]:-}
	[[ $pid ]] || return 0
	unset "pids[$1]"
	kill "-${2:-TERM}" "$pid" 2>/dev/null || true
	if [[ ${2:-TERM} == KILL ]]; then
		wait "$pid" 2>/dev/null || true
		return 0
	fi
	for ((i = 0; i < 1200; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	kill -KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
}

say_logs() {
	local log
	for log in "$dir"/logs/*; do
		[[ -s $log ]] && { echo "--- the end of ${log##*/}:"; tail -n 20 "$log"; } >&2
	done
	return 0
}

# A server in a tree that no system was made of (tests/mysql) runs with the libraries of that tree.
mariadbd=(mariadbd --no-defaults)
mysqld=()
if [[ ${SIDECAR_TESTS_MARIADB:-} ]]; then
	tree=$SIDECAR_TESTS_MARIADB
	mariadbd=("$tree/usr/lib64/ld-linux-x86-64.so.2" --library-path "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/sbin/mariadbd" --no-defaults
		--basedir="$tree/usr" --lc-messages-dir="$tree/usr/share/mariadb" --character-sets-dir="$tree/usr/share/mariadb/charsets"
		--plugin-dir="$tree/usr/lib/mysql/plugin")
elif [[ ${SIDECAR_TESTS_MYSQL:-} ]]; then
	tree=$SIDECAR_TESTS_MYSQL
	mysqld=("$tree/usr/lib64/ld-linux-x86-64.so.2" --library-path "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/sbin/mysqld" --no-defaults
		--lc-messages-dir="$tree/usr/share/mysql" --secure-file-priv=NULL)
fi

# As mariadb-install-db of the tree does, which would start the tree's programs with the system's libraries.
bootstrap_mariadb() { # DATA_DIRECTORY
	local scripts=$SIDECAR_TESTS_MARIADB/usr/share/mariadb
	{
		printf '%s\n' 'create database mysql;' 'use mysql;' 'SET @auth_root_socket=NULL;'
		cat "$scripts"/{mariadb_system_tables,mariadb_performance_tables,mariadb_system_tables_data,fill_help_tables}.sql \
			"$scripts"/{maria_add_gis_sp_bootstrap,mariadb_sys_schema}.sql
	} >"$dir/bootstrap.sql"
	"${privileges[@]}" -- "${mariadbd[@]}" --bootstrap --datadir="$1" --tmpdir="$dir/tmp" --enforce-storage-engine= \
		--max-allowed-packet=8M --net-buffer-length=16K --log-warnings=0 \
		--innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0 \
		<"$dir/bootstrap.sql" >>"$dir/logs/bootstrap.log" 2>&1 || fail "mariadbd --bootstrap failed"
}

install_mariadb() { # DATA_DIRECTORY
	if [[ ${SIDECAR_TESTS_MARIADB:-} ]]; then
		bootstrap_mariadb "$1"
		return
	fi
	# Forced: it would refuse a machine that cannot look up its own name.
	start mariadb-install-db mariadb-install-db --no-defaults --datadir="$1" --tmpdir="$dir/tmp" \
		--auth-root-authentication-method=normal --skip-test-db --skip-name-resolve --force \
		--innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0
	wait "${pids[mariadb-install-db]}" || fail "mariadb-install-db failed"
	unset "pids[mariadb-install-db]"
}

start_mariadb() { # DATA_DIRECTORY SOCKET OPTION…
	local data=$1 socket=$2
	shift 2
	# sun_path holds 108 bytes, its final zero included (unix(7)).
	((${#socket} < 108)) || fail "$socket is too long a path for a Unix socket"
	# The time zone differs from UTC, so that a confusion of the two shows.
	start mariadbd "${mariadbd[@]}" --datadir="$data" --tmpdir="$dir/tmp" --socket="$socket" \
		--pid-file="$dir/mysql.pid" --skip-networking --skip-name-resolve --default-time-zone=+05:45 \
		--character-set-server=utf8mb4 --max-connections=300 --performance-schema=OFF \
		--innodb-buffer-pool-size=64M --innodb-log-file-size=16M --key-buffer-size=1M --aria-pagecache-buffer-size=1M \
		"$@"
	wait_for mariadbd mariadb_answers "$socket" || fail "MariaDB did not start"
}

install_mysql() { # DATA_DIRECTORY
	start mysqld "${mysqld[@]}" --initialize-insecure --datadir="$1" --tmpdir="$dir/tmp" --innodb-redo-log-capacity=16M
	wait "${pids[mysqld]}" || fail "mysqld --initialize failed"
	unset "pids[mysqld]"
	# Each copy makes itself a server_uuid.
	rm -f "$1/auto.cnf"
}

# The mode is MariaDB's: WordPress's tables have dates of zeros.
start_mysql() { # DATA_DIRECTORY SOCKET OPTION…
	local data=$1 socket=$2
	shift 2
	start mysqld "${mysqld[@]}" --datadir="$data" --tmpdir="$dir/tmp" --socket="$socket" --pid-file="$dir/mysql.pid" \
		--skip-networking --mysqlx=OFF --skip-name-resolve --default-time-zone=+05:45 --max-connections=300 \
		--performance-schema=OFF --innodb-buffer-pool-size=64M --innodb-redo-log-capacity=16M \
		--sql-mode=STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION "$@"
	wait_for mysqld mariadb_answers "$socket" || fail "MySQL did not start"
}

# The socket's file exists a moment before the server listens on it. A ping that is denied access counts as a response.
mariadb_answers() { [[ -S $1 ]] && mariadb-admin --no-defaults --socket="$1" ping >/dev/null; }
