#!/usr/bin/env perl
# The first app of a new platform: one page that tells what has just happened and what to do next. Perl, because
# where there is git there is Perl, and nothing has to be installed.
use strict;
use warnings;
use IO::Socket::INET;
use POSIX ':sys_wait_h';

my $page = do { open my $file, '<', 'page.html' or die "page.html: $!\n"; local $/; <$file> };
my $port = $ENV{PORT} || 5000;
my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 128, ReuseAddr => 1)
    or die "Port $port can't be listened on: $!\n";
$| = 1;
print "Listening on port $port\n";

# One process a request; what is being answered is finished when the app is told to stop.
my $stopping = 0;
$SIG{TERM} = $SIG{INT} = sub { $stopping = 1; close $server };
$SIG{CHLD} = sub { 1 while waitpid(-1, WNOHANG) > 0 };
until ($stopping) {
    my $client = $server->accept or next;
    defined(my $pid = fork) or next;
    if ($pid == 0) {
        $SIG{$_} = 'IGNORE' for qw(TERM INT);
        $SIG{$_} = 'DEFAULT' for qw(CHLD ALRM);
        alarm 10;
        answer($client);
        exit;
    }
    close $client;
}
1 while wait > 0;

sub answer {
    my $client = shift;
    my $request = '';
    until ($request =~ /\r?\n\r?\n/) {
        sysread $client, $request, 4096, length $request or return;
        return if length $request > 16_384;
    }
    my ($method, $path) = $request =~ m{^([A-Z]+) ([^\s?]+)} or return;
    my ($host) = $request =~ /^host:\s*([\w.:-]+)/im;
    my ($status, $type, $body) =
          $path eq '/' ? ('200 OK', 'text/html', fill($host // "localhost:$port"))
        : ('404 Not Found', 'text/plain', "There is one page only: /\n");
    my $length = length $body;
    print $client "HTTP/1.1 $status\r\nContent-Type: $type; charset=utf-8\r\nContent-Length: $length\r\n",
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n", $method eq 'HEAD' ? '' : $body;
}

# fill HOST: the page with what this process knows about itself in its {{places}}.
sub fill {
    my $host = shift;
    my %known = (
        host     => $host,
        app      => $ENV{HEROKU_APP_NAME} || ($host =~ /^([a-z][a-z0-9-]*)\./ ? $1 : 'hello'),
        release  => $ENV{HEROKU_RELEASE_VERSION} ? "Release $ENV{HEROKU_RELEASE_VERSION}" : 'A release',
        process  => $ENV{DYNO} || 'web.1',
        port     => $port,
        remote   => $ENV{GIT_URL} || 'the-address-the-platform-printed',
        database => database(),
    );
    (my $text = $page) =~ s/\{\{(\w+)\}\}/$1 eq 'database' ? $known{$1} : escape($known{$1})/ge;
    return $text;
}

sub escape { my $text = shift; $text =~ s/([&<>"'])/'&#' . ord($1) . ';'/ge; return $text }

# database: what there is to say about it. psql counts the visit; where it isn't installed, the server is only greeted.
sub database {
    my $url = $ENV{DATABASE_URL} or return 'No database yet. Install PostgreSQL on this machine, start the platform again, and this app gets one.';
    my ($user, $password, $address, $db, $options) = $url =~ m{^postgres(?:ql)?://([^:@/]*)(?::([^@/]*))?@([^/]*)/([^?]*)(?:\?(.*))?$}
        or return 'DATABASE_URL is set, and it is no address of a PostgreSQL database.';
    my ($name, $number) = $address =~ /^(.*?)(?::(\d+))?$/;
    ($name) = $options =~ /(?:^|&)host=([^&]*)/ if $name eq '' && defined $options;
    s/%([0-9A-Fa-f]{2})/chr hex $1/ge for grep { defined } $user, $password, $name, $db;
    # Passwords have no place in a command line, where others can read them.
    local @ENV{qw(PGUSER PGPASSWORD PGHOST PGPORT PGDATABASE PGCONNECT_TIMEOUT PGOPTIONS)} =
        ($user, $password // '', $name, $number || 5432, $db, 3, '-c client_min_messages=warning');
    my $sql = "create sequence if not exists visits; select nextval('visits'), current_setting('server_version')";
    for my $psql (reverse(glob '/usr/lib/postgresql/*/bin/psql'), grep { -x } map { "$_/psql" } split /:/, $ENV{PATH} // '') {
        open my $out, '-|', $psql, '-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', $sql or next;
        my $row = join '', <$out>;
        close $out;
        my ($visits, $version) = $row =~ /(\d+)\|([\d.]+)/ or last;
        return "PostgreSQL $version is attached. It says that this page was opened <b>$visits</b> " . ($visits == 1 ? 'time.' : 'times.');
    }
    my $greeted = IO::Socket::INET->new(PeerAddr => $name, PeerPort => $number || 5432, Timeout => 3);
    if ($greeted) {
        # The question whether it speaks TLS is one that only PostgreSQL answers with one letter.
        syswrite $greeted, pack 'NN', 8, 80_877_103;
        my $letter = '';
        sysread $greeted, $letter, 1;
        return 'A PostgreSQL database is attached, and its server answers.' if $letter =~ /^[SN]/;
    }
    return 'A PostgreSQL database is attached, but it does not answer just now.';
}
