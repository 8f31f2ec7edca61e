# A web app for the tests: it answers with the commit's word and who it is, finishes what it answers when it is told to
# stop, and does nothing else.
use strict;
use warnings;
use IO::Socket::INET;
use POSIX ':sys_wait_h';

open my $file, '<', 'word' or die "word: $!\n";
chomp(my $word = <$file>);
my ($me, $stopping) = ($$, 0);
my $server = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 128, ReuseAddr => 1)
    or die "Port $ENV{PORT} can't be listened on: $!\n";
$| = 1;
print "$word listens on $ENV{PORT}\n";
$SIG{TERM} = sub { $stopping = 1; close $server };
$SIG{CHLD} = sub { 1 while waitpid(-1, WNOHANG) > 0 };
until ($stopping) {
    my $client = $server->accept or next;
    defined(my $pid = fork) or next;
    if ($pid == 0) {
        $SIG{TERM} = sub { $stopping = 1 };
        close $server;
        serve($client);
        exit;
    }
    close $client;
}
$SIG{CHLD} = 'DEFAULT';
1 while wait > 0;

sub serve {
    my $client = shift;
    my $request = '';
    until ($stopping) {
        sysread $client, $request, 4096, length $request or return;
        next unless $request =~ s/^.*?\r?\n\r?\n//s;
        my $body = "$word pid=$me port=$ENV{PORT}\n";
        my $length = length $body;
        syswrite $client, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: $length\r\n\r\n$body";
    }
}
